"""Brings images and maps of any shape to a square, as the reference did (docs/method/recipe.md).

Geometry is PIL's, whose antialiasing filters the published models were trained with. Every function takes
uint8 [H, W, 3] (maps also [H, W]) and returns uint8 [size, size, 3]; the model sees value / 127.5 − 1.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

PADDING_GREY = 127


def pad_square(image: np.ndarray, size: int) -> np.ndarray:
    """Centre the image on a grey square and scale it (bicubic), for understanding: nothing is distorted."""
    check_image(image, size)
    return resize(centre_on_square(image, PADDING_GREY), size, Image.Resampling.BICUBIC)


def centre_on_square(image: np.ndarray, value: int) -> np.ndarray:
    """Centre the image, or a map, on a square of `value`; one that is a square stays as it is."""
    height, width = image.shape[:2]
    if height == width:
        return image
    side = max(height, width)
    square = np.full((side, side, *image.shape[2:]), value, dtype=image.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Stretch the image to its longer side, then scale it (both bicubic): aspect is lost, nothing is cut.

    For the source and the target of generation.
    """
    check_image(image, size)
    return resize(stretch(image), size, Image.Resampling.BICUBIC)


def stretch(image: np.ndarray) -> np.ndarray:
    """Stretch an image to a square of its longer side (bicubic)."""
    return resize(image, max(image.shape[:2]), Image.Resampling.BICUBIC)


def resize(image: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
    """Scale an image to [side, side]; one that has the size already stays as it is."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), method))


def three_channels(plane: np.ndarray) -> np.ndarray:
    """[H, W] → [H, W, 3]."""
    return np.repeat(plane[:, :, None], 3, axis=2)


def check_map(image: np.ndarray, size: int) -> None:
    """Raise ValueError unless `image` is a map: uint8 [H, W] or [H, W, 3], not empty, and `size` is positive."""
    _check(image, size, channels_required=False)


def check_image(image: np.ndarray, size: int) -> None:
    """Raise ValueError unless `image` is uint8 [H, W, 3], not empty, and `size` is positive."""
    _check(image, size, channels_required=True)


def _check(image: np.ndarray, size: int, *, channels_required: bool) -> None:
    """Raise ValueError unless `image` is uint8, of an allowed shape and not empty, and `size` is positive."""
    shapes = "[H, W, 3]" if channels_required else "[H, W] or [H, W, 3]"
    right_shape = (image.ndim == 3 and image.shape[2] == 3) or (image.ndim == 2 and not channels_required)
    if image.dtype != np.uint8 or not right_shape or 0 in image.shape:
        raise ValueError(f"expected uint8 {shapes}, got {image.dtype} {list(image.shape)}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
