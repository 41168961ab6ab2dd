"""Scenes: the same everywhere, occlusion follows depth, and every answer can be seen in the picture."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from unimrg_trainer.scenes import COLOURS, KINDS, QUESTIONS_PER_SCENE, Question, Scene, generate
from unimrg_trainer.scenes.world import pixel_centres

SEED = 7


@pytest.fixture(scope="module")
def scenes() -> Sequence[Scene]:
    return [generate(SEED, index, 64) for index in range(60)]


def digest(scene: Scene) -> str:
    pixels = hashlib.sha256()
    for array in (scene.image, scene.depth, scene.instances, scene.segmentation):
        pixels.update(np.ascontiguousarray(array).tobytes())
    pixels.update(repr((scene.caption, scene.questions)).encode())
    return pixels.hexdigest()[:16]


def test_scene_zero_is_the_same_on_every_machine() -> None:
    assert digest(generate(0, 0, 48)) == "ec6ba432bf17b1e6"


def test_seed_and_index_both_make_another_scene() -> None:
    assert len({digest(generate(seed, index, 32)) for seed in (0, 1) for index in (0, 1)}) == 4


@pytest.mark.parametrize("size", [32, 48, 100])
def test_the_texts_are_the_same_at_every_size(size: int) -> None:
    for index in range(5):
        scene, reference = generate(SEED, index, size), generate(SEED, index, 256)
        assert (scene.caption, scene.questions) == (reference.caption, reference.questions)
        assert scene.image.shape == (size, size, 3)
        assert scene.depth.shape == scene.instances.shape == scene.segmentation.shape == (size, size)


def test_where_silhouettes_overlap_the_nearer_one_is_seen(scenes: Sequence[Scene]) -> None:
    x, y = pixel_centres(64)
    overlaps = 0
    for scene in scenes:
        covers = np.array([thing.covers(x, y) for thing in scene.world.things])
        disparities = np.array([thing.disparity for thing in scene.world.things])
        expected = np.where(covers, disparities[:, None, None], -1).argmax(axis=0) + 1
        expected[~covers.any(axis=0)] = 0
        np.testing.assert_array_equal(scene.instances, expected)
        overlaps += int((covers.sum(axis=0) > 1).sum())
    assert overlaps > 500


def test_depth_orders_things_as_their_disparity_does_and_fills_the_range(scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        assert (scene.depth.min(), scene.depth.max()) == (0, 255)
        levels = []
        for label in range(1, len(scene.world.things) + 1):
            values = np.unique(scene.depth[scene.instances == label])
            assert len(values) == 1
            levels.append(int(values[0]))
        assert levels == sorted(set(levels))


def test_things_lie_within_the_picture_and_most_of_each_is_seen(scenes: Sequence[Scene]) -> None:
    x, y = pixel_centres(64)
    for scene in scenes:
        assert 2 <= len(scene.world.things) <= 4
        for label, thing in enumerate(scene.world.things, start=1):
            assert thing.x - thing.size / 2 > 0 and thing.x + thing.size / 2 < 1
            assert thing.foot - thing.size > 0 and thing.foot < 1
            assert (scene.instances == label).sum() >= 0.6 * thing.covers(x, y).sum()


def test_every_thing_has_the_colour_of_its_name(scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        for label, thing in enumerate(scene.world.things, start=1):
            assert nearest_colour(np.median(scene.image[scene.instances == label], axis=0)) == thing.colour


def test_contours_are_the_inner_borders_of_masks_against_what_is_farther(scenes: Sequence[Scene]) -> None:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for scene in scenes:
        expected = np.zeros((64, 64), dtype=bool)
        for label in range(1, len(scene.world.things) + 1):
            at_least = (scene.instances >= label).astype(np.uint8)
            inside = cv2.erode(at_least, cross, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(bool)
            expected |= (scene.instances == label) & ~inside
        np.testing.assert_array_equal(scene.segmentation, expected * 255)


def test_every_answer_can_be_seen_in_the_maps() -> None:
    asked = Counter[str]()
    for index in range(150):
        scene = generate(SEED, index, 96)
        for question in scene.questions:
            assert question.answer == seen_answer(scene, question), (index, question)
            asked[question.kind] += 1
    assert set(asked) == set(KINDS)


def test_the_caption_names_all_things_from_near_to_far_with_their_places(scenes: Sequence[Scene]) -> None:
    places = {"on the left": "left", "in the middle": "middle", "on the right": "right"}
    for scene in scenes:
        told = re.findall(r"an? (\w+ \w+) (on the left|in the middle|on the right)", scene.caption)
        assert [name for name, _ in told] == [thing.name for thing in reversed(scene.world.things)]
        for name, place in told:
            assert place_of(centre(scene, name)) == places[place]


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    overall = Counter[str]()
    for index in range(500):
        questions = generate(SEED, index, 32).questions
        assert len(questions) == len({question.kind for question in questions}) == QUESTIONS_PER_SCENE
        for question in questions:
            answers[question.kind][question.answer] += 1
            overall[question.answer] += 1
    for kind, counts in answers.items():
        total, uniform = counts.total(), 1 / len(counts)
        spread = 3.5 * (uniform * (1 - uniform) / total) ** 0.5  # of a fair draw
        assert max(counts.values()) / total < uniform + spread, (kind, counts)
        assert min(counts.values()) / total > uniform - spread, (kind, counts)
    assert max(overall.values()) / overall.total() < 0.17


def seen_answer(scene: Scene, asked: Question) -> str:
    """Answer from the maps alone, without the drawing's geometry."""
    names = re.findall(r"(\w+ (?:circle|square|triangle|cross))", asked.question)
    nearest = int(scene.instances.flat[np.where(scene.instances > 0, scene.depth, 0).argmax()])
    if asked.kind == "colour":
        return nearest_colour(np.median(scene.image[scene.instances == nearest], axis=0))
    if asked.kind == "ground":
        return "light" if scene.image[-1][scene.instances[-1] == 0].mean() > 85 else "dark"
    if asked.kind == "presence":
        return "yes" if names[0] in [thing.name for thing in scene.world.things] else "no"
    if asked.kind == "nearest":
        return place_of(columns_centre(scene, nearest))
    if asked.kind == "where":
        return place_of(centre(scene, names[0]))
    first, second = names
    if asked.kind == "side":
        assert abs(centre(scene, first) - centre(scene, second)) > 0.12
        return "left" if centre(scene, first) < centre(scene, second) else "right"
    assert asked.kind == "nearer"
    difference = level(scene, first) - level(scene, second)
    assert abs(difference) > 25
    return "nearer" if difference > 0 else "farther"


def label_of(scene: Scene, name: str) -> int:
    found = [index for index, thing in enumerate(scene.world.things) if thing.name == name]
    assert len(found) == 1, name
    return found[0] + 1


def level(scene: Scene, name: str) -> int:
    return int(np.median(scene.depth[scene.instances == label_of(scene, name)]))


def centre(scene: Scene, name: str) -> float:
    return columns_centre(scene, label_of(scene, name))


def columns_centre(scene: Scene, label: int) -> float:
    return float((np.nonzero(scene.instances == label)[1].mean() + 0.5) / scene.instances.shape[1])


def place_of(x: float) -> str:
    assert not 0.375 < x < 0.385 and not 0.615 < x < 0.625, f"{x} lies between two places"
    return "left" if x < 0.38 else "middle" if x < 0.62 else "right"


def nearest_colour(pixel: np.ndarray) -> str:
    hue = pixel / np.linalg.norm(pixel)
    return max(COLOURS, key=lambda name: float(hue @ COLOURS[name] / np.linalg.norm(COLOURS[name])))
