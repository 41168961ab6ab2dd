"""Post-processing of models' outputs, against definitions written as loops: depth, masks, contours, regions, ridges."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimrg_trainer.preparation.producers.depth_anything import grey, input_shape
from unimrg_trainer.preparation.producers.hed import THRESHOLD, ridges
from unimrg_trainer.preparation.producers.masks import Mask, PackedMask, colour, contours, cut_out, regions, suppressed
from unimrg_trainer.preparation.producers.sam import reduce

Box = tuple[int, int, int, int]
SHAPES = [(1, 1), (1, 7), (9, 1), (17, 23), (64, 48)]


def drawn_masks(height: int, width: int) -> list[np.ndarray]:
    """No region that a mask can have is left out: one pixel, all of them, along a border, with holes."""
    rng = np.random.default_rng(height * 100 + width)
    full = np.ones((height, width), bool)
    pixel, border, noise = np.zeros_like(full), np.zeros_like(full), rng.random(full.shape) < 0.5
    pixel[height // 2, width // 3] = border[-1] = True
    rows, columns = np.mgrid[:height, :width]
    ring = np.abs(np.hypot(rows - height / 2, columns - width / 2) - min(height, width) / 3) < 2
    return [full, pixel, border, noise, ring]


def cut(masks: list[np.ndarray]) -> list[Mask]:
    return [found for mask in masks if (found := cut_out(mask)) is not None]


@pytest.mark.parametrize("shape", SHAPES)
def test_contours_are_the_maximum_of_canny_over_whole_masks(shape: tuple[int, int]) -> None:
    masks = drawn_masks(*shape)
    expected = np.zeros(shape, np.uint8)
    for mask in masks:
        edges = cv2.Canny(mask.astype(np.uint8) * 255, 100, 200)
        for row in range(shape[0]):
            for column in range(shape[1]):
                expected[row, column] = max(expected[row, column], edges[row, column])
    np.testing.assert_array_equal(contours(cut(masks), *shape), expected)
    for mask in masks:  # each by itself too: the maximum could hide a fault
        np.testing.assert_array_equal(contours(cut([mask]), *shape), cv2.Canny(mask.astype(np.uint8) * 255, 100, 200))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_mask_comes_back_in_its_place(shape: tuple[int, int]) -> None:
    for mask in cut(drawn_masks(*shape)):
        back = PackedMask.of(mask).unpacked()
        np.testing.assert_array_equal(back.pixels, mask.pixels)
        assert back.box == mask.box and back.pixels.dtype == bool


def test_without_a_mask_contours_and_regions_are_black() -> None:
    assert cut_out(np.zeros((5, 7), bool)) is None
    assert contours([], 5, 7).shape == (5, 7) and not contours([], 5, 7).any()
    assert regions([], 5, 7).shape == (5, 7, 3) and not regions([], 5, 7).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pixel_has_the_colour_of_the_smallest_region_over_it(shape: tuple[int, int]) -> None:
    masks = drawn_masks(*shape)
    found = regions(cut(masks), *shape)
    largest_first = sorted(range(len(masks)), key=lambda index: -int(masks[index].sum()))
    numbers = {index: number for number, index in enumerate(i for i in largest_first if masks[i].any())}
    for row in range(shape[0]):
        for column in range(shape[1]):
            over = [numbers[index] for index in numbers if masks[index][row, column]]
            assert tuple(found[row, column]) == (colour(max(over)) if over else (0, 0, 0))


def test_the_first_hundred_regions_differ_in_colour() -> None:
    assert len({colour(number) for number in range(100)}) == 100
    assert all(max(colour(number)) >= 128 for number in range(100))  # none of them is nearly black


boxes = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).map(
        lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.lists(st.integers(0, 5), min_size=12, max_size=12), st.sampled_from([0.0, 0.5, 0.7, 1.0]))
def test_suppression_keeps_what_no_better_kept_box_covers(found: list[Box], grades: list[int], limit: float) -> None:
    def overlap(one: Box, other: Box) -> float:
        pixels = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (one, other)]
        union = len(pixels[0] | pixels[1])
        return len(pixels[0] & pixels[1]) / union if union else 0.0

    kept: list[int] = []
    for index in sorted(range(len(found)), key=lambda index: (-grades[index], index)):
        if all(overlap(found[index], found[other]) <= limit for other in kept):
            kept.append(index)
    scores = np.array(grades[: len(found)], np.float64)
    assert suppressed(np.array(found, np.float32).reshape(-1, 4), scores, limit) == kept


@pytest.mark.parametrize("shape", SHAPES)
def test_depth_is_stretched_to_bytes_with_fractions_cut_off(shape: tuple[int, int]) -> None:
    depth = np.random.default_rng(7).normal(5, 3, shape).astype(np.float32)
    low, high = min(depth.flat), max(depth.flat)
    found = grey(depth)
    assert found.dtype == np.uint8 and found.shape == shape
    for place, value in np.ndenumerate(depth):
        exact = 0.0 if low == high else float((value - low) / (high - low)) * 255
        assert found[place] in {math.floor(exact - 1e-4), math.floor(exact + 1e-4)}
    if depth.size > 1:
        assert found.min() == 0 and found.max() == 255


def test_a_constant_depth_is_black() -> None:
    for value in (0.0, 3.7, -1e30):
        assert not grey(np.full((3, 5), value, np.float32)).any()


def test_what_the_depth_model_sees_has_upstreams_shape() -> None:
    # by hand: the factor is 518 over the shorter side, each side is rounded to a multiple of 14, 518 at least
    assert input_shape(480, 640) == (518, 686)  # 690.67 / 14 = 49.33
    assert input_shape(640, 480) == (686, 518)
    assert input_shape(512, 512) == input_shape(1, 1) == (518, 518)
    assert input_shape(500, 741) == (518, 770)  # 767.68 / 14 = 54.83
    assert input_shape(1, 100_000) == (518, 3108)  # would be 51,800,000 pixels long


def test_a_long_image_is_reduced_to_2048_by_means_of_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 4096, 3), dtype=np.uint8)
    means = image.reshape(4, 2, 2048, 2, 3).mean(axis=(1, 3))
    assert np.abs(reduce(image).astype(float) - means).max() <= 0.5
    assert reduce(image[:, :2048]) is not None and reduce(image[:, :2048]).shape == (8, 2048, 3)


def test_ridges_are_one_pixel_wide_along_the_crest() -> None:
    rows, columns = np.mgrid[:60, :80].astype(np.float32)
    for start, slope in ((30, 0.0), (5, 0.6), (55, -0.6)):
        distance = rows - (start + columns * slope)
        probabilities = (0.95 * np.exp(-(distance**2) / 18)).astype(np.float32)
        found = ridges(probabilities) > 0
        inside = found[:, 3:-3]  # at the border of an image nothing is known of the other side
        assert (np.abs(distance)[:, 3:-3][inside] <= 1).all()
        assert (inside.sum(axis=0) >= 1).all()
        assert inside.sum() <= inside.shape[1] * (1 + abs(slope)) + 2  # steps sideways and up, never two abreast
    assert set(np.unique(ridges(probabilities))) == {0, 255}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_unlikely_or_flat_is_no_ridge(shape: tuple[int, int]) -> None:
    unlikely = np.random.default_rng(1).uniform(0, THRESHOLD - 0.01, shape).astype(np.float32)
    assert ridges(unlikely).shape == shape and not ridges(unlikely).any()
    assert ridges(np.full(shape, 0.9, np.float32)).sum() <= 255 * (shape[0] + shape[1])
