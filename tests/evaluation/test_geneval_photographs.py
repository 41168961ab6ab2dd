"""GenEval's decisions about real photographs by what a real, small detector finds in them. Not a score of anything."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pytest

from tests.support.yolov3_tiny import YoloV3Tiny, fetch_weights
from unimrg_trainer.data.decode import decode_image
from unimrg_trainer.evaluation.benchmarks.geneval import judged

pytestmark = pytest.mark.long

SHOWN = {
    "cat": ("skimage", "data/chelsea.png"),
    "cup": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "horse": ("skimage", "data/horse.png"),
    "person": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Class → a photograph of one (of the horse a drawing), as a package ships it."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> YoloV3Tiny:
    return YoloV3Tiny(fetch_weights(tmp_path_factory.mktemp("yolo")))


def photographs(*names: str) -> np.ndarray:
    """One or two photographs from left to right on a grey square twice as wide as the widest, uint8 [S, S, 3]."""
    images = [
        decode_image(resources.files(package).joinpath(path).read_bytes())
        for package, path in (SHOWN[name] for name in names)
    ]
    half = max(max(image.shape[:2]) for image in images)
    square = np.full((2 * half, 2 * half, 3), 127, np.uint8)
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        left = (half if number else 0) if len(images) == 2 else half - width // 2
        square[half - height // 2 :, left:][:height, :width] = image
    return square


def decision(detector: YoloV3Tiny, image: np.ndarray, tag: str, *include: dict[str, Any], **further: Any) -> Any:
    record = {"tag": tag, "include": list(include), **further}
    return judged(record, image, detector.detect(image), None)


def one(name: str, **further: Any) -> dict[str, Any]:
    return {"class": name, "count": 1, **further}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_photograph_shows_what_it_shows_and_nothing_else(detector: YoloV3Tiny, shown: str) -> None:
    image = photographs(shown)
    right = {name: decision(detector, image, "single_object", one(name))["correct"] for name in SHOWN}
    assert right == {name: name == shown for name in SHOWN}


@pytest.mark.parametrize("pair", [("cat", "motorcycle"), ("motorcycle", "cat"), ("person", "motorcycle")])
def test_two_photographs_stand_where_they_stand(detector: YoloV3Tiny, pair: Sequence[str]) -> None:
    image = photographs(*pair)
    first, second = pair
    assert decision(detector, image, "two_object", one(first), one(second))["correct"]
    for relation in ("right of", "left of", "above", "below"):
        found = decision(detector, image, "position", one(first), one(second, position=[relation, 0]))
        assert found["correct"] == (relation == "right of")
    assert found["reason"] == f"expected {second} below target, found right of target"


def counts(detector: YoloV3Tiny, name: str, tag: str) -> list[int]:
    """Which numbers of a class, shown twice, are the right ones."""
    return [
        count
        for count in (1, 2, 3)
        for exclude in [[{"class": name, "count": count + 1}]]
        for clause in [{"class": name, "count": count}]
        if decision(detector, photographs(name, name), tag, clause, exclude=exclude)["correct"]
    ]


def test_two_cats_are_two_and_two_horses_too_faint_to_be_counted(detector: YoloV3Tiny) -> None:
    assert counts(detector, "cat", "counting") == [2]
    assert counts(detector, "horse", "counting") == [] and counts(detector, "horse", "two_object") == [2]


def test_a_colour_is_not_decided_without_a_judge(detector: YoloV3Tiny) -> None:
    assert decision(detector, photographs("cat"), "colors", one("cat", color="brown"))["correct"] is None
