"""What becomes of a model's masks: which of them are kept, and how they are drawn. Arrays only, no model."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

CANNY = (100, 200)
"""Thresholds of the published contours."""
_MARGIN = 4
"""Pixels around a mask that its edges are looked for in; Canny looks at three."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A region of an image, cut out: `pixels` bool [h, w], whose upper left corner is at (left, top)."""

    pixels: np.ndarray
    left: int
    top: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First and last column and row: left, top, right, bottom, all of them in the mask."""
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width - 1, self.top + height - 1


@dataclass(frozen=True)
class PackedMask:
    """A mask that waits, in a small part of the memory: of a large image there are thousands to choose from."""

    content: bytes
    shape: tuple[int, int]
    left: int
    top: int

    @classmethod
    def of(cls, mask: Mask) -> PackedMask:
        """Return a mask packed."""
        height, width = mask.pixels.shape
        return cls(zlib.compress(np.packbits(mask.pixels).tobytes(), 1), (height, width), mask.left, mask.top)

    def unpacked(self) -> Mask:
        """Return the mask."""
        height, width = self.shape
        bits = np.unpackbits(np.frombuffer(zlib.decompress(self.content), np.uint8), count=height * width)
        return Mask(bits.view(bool).reshape(height, width), self.left, self.top)


def cut_out(mask: np.ndarray) -> Mask | None:
    """Return a mask, bool [H, W], cut to its box; None for an empty one."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return Mask(mask[top : top + height, left : left + width].copy(), left, top) if width else None


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Return the indices of the boxes, float [N, 4] (left, top, right, bottom), that stay, best score first.

    A box goes if its intersection with a better one that stays is more than `threshold` of their union; of equal
    scores the earlier box is better. Boxes without area intersect none.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        common = sides.clip(min=0).prod(axis=1)
        order = order[~(common > threshold * (areas[best] + areas[order] - common))]
    return kept


def contours(masks: Sequence[Mask], height: int, width: int) -> np.ndarray:
    """Return the edges of all masks by Canny's rule, white on black: uint8 [height, width], black without masks."""
    drawn = np.zeros((height, width), np.uint8)
    for mask in masks:
        left, top, right, bottom = mask.box
        # with a margin the edges are those in the whole image, at a fraction of the cost
        before = min(left, _MARGIN), min(top, _MARGIN)
        after = min(width - 1 - right, _MARGIN), min(height - 1 - bottom, _MARGIN)
        framed = cv2.copyMakeBorder(
            mask.pixels.view(np.uint8) * 255, before[1], after[1], before[0], after[0], cv2.BORDER_CONSTANT, value=0
        )
        place = drawn[top - before[1] : bottom + 1 + after[1], left - before[0] : right + 1 + after[0]]
        np.maximum(place, cv2.Canny(framed, *CANNY), out=place)
    return drawn


def regions(masks: Sequence[Mask], height: int, width: int) -> np.ndarray:
    """Return every mask filled with a colour of its own, small ones over large ones: uint8 [height, width, 3].

    Colours follow from the order of sizes, of equal ones that of `masks`; what no mask covers is black.
    """
    drawn = np.zeros((height, width, 3), np.uint8)
    for number, mask in enumerate(sorted(masks, key=lambda mask: -int(mask.pixels.sum()))):
        left, top, right, bottom = mask.box
        drawn[top : bottom + 1, left : right + 1][mask.pixels] = colour(number)
    return drawn


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a region by its number: hues a golden section apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618033988749895 % 1, 0.75, 1 - number % 3 * 0.2)
    return round(red * 255), round(green * 255), round(blue * 255)
