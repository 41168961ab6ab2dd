"""Canonical images and targets against cases worked out by hand and against PIL called step by step."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimrg_trainer.maps.depth import DEPTH
from unimrg_trainer.maps.geometry import pad_square, squash
from unimrg_trainer.maps.segmentation import SEGMENTATION
from unimrg_trainer.sample import Sample

BICUBIC, BILINEAR, NEAREST = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def depth_target(pixels: np.ndarray, size: int) -> np.ndarray:
    return DEPTH.target(Sample("a", maps={"depth": pixels}), size)


def segmentation_target(pixels: np.ndarray, size: int) -> np.ndarray:
    return SEGMENTATION.target(Sample("a", maps={"segmentation": pixels}), size)


def test_padding_centres_a_wide_image_between_grey_bars() -> None:
    image = np.full((2, 6, 3), 200, dtype=np.uint8)
    padded = pad_square(image, 6)
    assert (padded[2:4] == 200).all()
    assert (padded[:2] == 127).all() and (padded[4:] == 127).all()


def test_padding_puts_the_odd_pixel_below_and_to_the_right() -> None:
    tall = pad_square(np.full((5, 2, 3), 9, dtype=np.uint8), 5)
    assert [int(column[0, 0]) for column in np.moveaxis(tall, 1, 0)] == [127, 9, 9, 127, 127]


def test_padding_scales_with_pils_bicubic_filter() -> None:
    image = noise(20, 20, 3)
    expected = np.asarray(Image.fromarray(image).resize((7, 7)))  # bicubic is PIL's default
    np.testing.assert_array_equal(pad_square(image, 7), expected)


def test_squashing_goes_through_the_longer_side() -> None:
    image = noise(10, 23, 3)
    step = Image.fromarray(image).resize((23, 23), BICUBIC)
    np.testing.assert_array_equal(squash(image, 8), np.asarray(step.resize((8, 8), BICUBIC)))
    direct = np.asarray(Image.fromarray(image).resize((8, 8), BICUBIC))
    assert (squash(image, 8) != direct).any()


def test_a_square_image_of_the_right_size_stays_as_it_is() -> None:
    image = noise(12, 12, 3)
    np.testing.assert_array_equal(pad_square(image, 12), image)
    np.testing.assert_array_equal(squash(image, 12), image)


def test_depth_is_stretched_to_the_full_range_in_three_equal_channels() -> None:
    target = depth_target(np.array([[50, 100], [150, 75]], dtype=np.uint8), 2)
    # (v − 50) / 100 × 255: 0, 127.5, 255, 63.75; halves round up
    np.testing.assert_array_equal(target[:, :, 0], [[0, 128], [255, 64]])
    np.testing.assert_array_equal(target, np.repeat(target[:, :, :1], 3, axis=2))


def test_depth_is_scaled_bicubic_then_bilinear() -> None:
    depth = noise(9, 14)
    step = Image.fromarray(depth).resize((14, 14), BICUBIC).resize((6, 6), BILINEAR)
    scaled = np.asarray(step).astype(float)
    stretched = (scaled - scaled.min()) / (scaled.max() - scaled.min()) * 255
    np.testing.assert_allclose(depth_target(depth, 6)[:, :, 1], stretched, atol=0.5)


def test_a_constant_depth_map_becomes_the_farthest_value() -> None:
    assert (depth_target(np.full((3, 5), 90, dtype=np.uint8), 4) == 0).all()


def test_of_a_depth_map_with_three_channels_the_first_counts() -> None:
    depth = noise(8, 8, 3)
    np.testing.assert_array_equal(depth_target(depth, 8), depth_target(depth[:, :, 0], 8))


def test_segmentation_is_scaled_bicubic_then_nearest() -> None:
    segmentation = np.where(noise(10, 15) > 200, 255, 0).astype(np.uint8)
    step = Image.fromarray(segmentation).resize((15, 15), BICUBIC).resize((40, 40), NEAREST)
    target = segmentation_target(segmentation, 40)
    for channel in range(3):
        np.testing.assert_array_equal(target[:, :, channel], np.asarray(step))


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (np.zeros((4, 4), dtype=np.uint8), 4),
        (np.zeros((4, 4, 4), dtype=np.uint8), 4),
        (np.zeros((4, 4, 3), dtype=np.float32), 4),
        (np.zeros((0, 4, 3), dtype=np.uint8), 4),
        (np.zeros((4, 4, 3), dtype=np.uint8), 0),
    ],
)
def test_images_of_another_kind_are_refused(image: np.ndarray, size: int) -> None:
    for function in (pad_square, squash):
        with pytest.raises(ValueError, match=r"expected uint8|at least 1 pixel"):
            function(image, size)
