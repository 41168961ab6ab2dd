"""The world behind a scene: a camera over a ground plane and upright coloured shapes that stand on it.

All lengths are fractions of the image side, y grows downwards. Depth is **disparity** (1 / distance, as
monocular depth estimators give it): 0 at the horizon and in the sky, 1 where the ground meets the lower
image border. On a ground plane disparity grows linearly with the row, and the size of an upright object is
proportional to its disparity, so one number decides an object's size, its row and what it occludes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Band = Literal["left", "middle", "right"]

SHAPES = ("circle", "square", "triangle", "cross")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 44, 40),
    "green": (36, 168, 58),
    "blue": (38, 84, 226),
    "yellow": (246, 208, 36),
    "purple": (158, 50, 190),
}
"""Name → RGB before shading."""

BANDS: dict[Band, tuple[float, float]] = {"left": (0.0, 0.31), "middle": (0.43, 0.57), "right": (0.69, 1.0)}
"""Where the centre of an object may lie; the gaps keep "left", "middle" and "right" unambiguous."""

REFERENCE_SIZE = 64
"""Layouts are measured on a raster of this side, so that a scene is the same world at every image size."""

_NEAREST, _FARTHEST = 0.95, 0.44  # disparity of the nearest and farthest place where an object may stand
_COUNTS, _COUNT_SHARES = (2, 3, 4), (0.35, 0.45, 0.20)
_TRIES_PER_COUNT = 60
_MINIMUM_VISIBLE = 0.62  # share of an object's silhouette that the nearer ones must leave visible
_BORDER = 0.015


@dataclass(frozen=True)
class Thing:
    """One object. `x` is its centre, `foot` the row where it stands, `size` its height and greatest width."""

    shape: str
    colour: str
    disparity: float
    x: float
    foot: float
    size: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def y(self) -> float:
        """Row of the centre."""
        return self.foot - self.size / 2

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return image points in the object's own frame, where it spans [−1, 1] in both axes."""
        return (x - self.x) * (2 / self.size), (y - self.y) * (2 / self.size)

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which points lie in the silhouette (bool, broadcast of `x` and `y`)."""
        u, v = self.local(x, y)
        inside: np.ndarray
        if self.shape == "circle":
            inside = u * u + v * v <= 1
        elif self.shape == "square":
            inside = (np.abs(u) <= 0.88) & (v >= -0.76) & (v <= 1)
        elif self.shape == "triangle":
            inside = (v <= 1) & (np.abs(u) * 1.9 <= v + 0.9)
        else:
            assert self.shape == "cross", self.shape
            upright, level = (np.abs(u) <= 0.36) & (np.abs(v) <= 1), (np.abs(v) <= 0.36) & (np.abs(u) <= 1)
            inside = upright | level
        return inside


@dataclass(frozen=True)
class World:
    """What is in a scene. `things` go from far to near; thing k has label k + 1 in the instance map."""

    horizon: float
    theme: int
    things: tuple[Thing, ...]

    def ground_disparity(self, y: np.ndarray) -> np.ndarray:
        """Return the background's disparity at rows `y`: 0 above the horizon, 1 at the lower border."""
        return np.maximum((y - self.horizon) / (1 - self.horizon), 0)


@dataclass(frozen=True)
class Visible:
    """What can be seen of a thing: the column of its visible part's centre, the visible share of its silhouette."""

    x: float
    share: float


def pixel_centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x [1, size] and y [size, 1] of the pixel centres of a square image."""
    centres = (np.arange(size) + 0.5) / size
    return centres[None, :], centres[:, None]


def label_map(things: tuple[Thing, ...], size: int) -> np.ndarray:
    """Return the instance map int32 [size, size]: 0 background, k + 1 for things[k]."""
    x, y = pixel_centres(size)
    labels = np.zeros((size, size), dtype=np.int32)
    for index, thing in enumerate(things):
        labels[thing.covers(x, y)] = index + 1
    return labels


def visible_parts(things: tuple[Thing, ...]) -> tuple[Visible, ...]:
    """Measure every thing's visible part on the reference raster; one wholly hidden has share 0, centre ½."""
    labels = label_map(things, REFERENCE_SIZE)
    x, y = pixel_centres(REFERENCE_SIZE)
    parts = []
    for index, thing in enumerate(things):
        columns = np.nonzero(labels == index + 1)[1]
        if not len(columns):
            parts.append(Visible(0.5, 0.0))
            continue
        centre = (int(columns.sum()) / len(columns) + 0.5) / REFERENCE_SIZE
        parts.append(Visible(centre, len(columns) / int(thing.covers(x, y).sum())))
    return tuple(parts)


def band_of(x: float) -> Band | None:
    """Return the band that a horizontal place belongs to without doubt, or None between two bands."""
    if x <= 0.36:
        return "left"
    if x >= 0.64:
        return "right"
    return "middle" if 0.40 <= x <= 0.60 else None


def draw_world(random: np.random.Generator, themes: int) -> World:
    """Draw a world whose things can all be seen and named without doubt."""
    horizon = _between(random, 0.12, 0.24)
    theme = int(random.integers(themes))
    scale = _between(random, 0.43, 0.50)  # size of an object at disparity 1
    count = int(random.choice(_COUNTS, p=_COUNT_SHARES))
    # Drawn once, outside the retries: rejection would otherwise push the nearest (largest) thing to the
    # sides.
    nearest_band = _draw_band(random)
    for things_wanted in range(count, 1, -1):
        for _ in range(_TRIES_PER_COUNT):
            things = _draw_things(random, things_wanted, horizon, scale, nearest_band)
            if _is_clear(things):
                return World(horizon, theme, things)
    raise AssertionError(f"no clear layout of two things: horizon={horizon} scale={scale}")


def _draw_things(
    random: np.random.Generator, count: int, horizon: float, scale: float, nearest_band: Band
) -> tuple[Thing, ...]:
    colours = [list(COLOURS)[i] for i in random.permutation(len(COLOURS))[:count]]
    stratum = (_NEAREST - _FARTHEST) / count
    things = []
    for index, colour in enumerate(colours):
        # Depths keep a distance of 0.7 stratum at least, so "nearer" is never a matter of a pixel.
        disparity = _FARTHEST + stratum * (index + _between(random, 0.35, 0.65))
        size = scale * disparity
        band = nearest_band if index == count - 1 else _draw_band(random)
        low, high = BANDS[band]
        x = _between(random, max(low, size / 2 + _BORDER), min(high, 1 - size / 2 - _BORDER))
        shape = SHAPES[int(random.integers(len(SHAPES)))]
        things.append(Thing(shape, colour, disparity, x, horizon + disparity * (1 - horizon), size))
    return tuple(things)


def _is_clear(things: tuple[Thing, ...]) -> bool:
    return all(
        part.share >= _MINIMUM_VISIBLE and band_of(part.x) is not None and band_of(part.x) == band_of(thing.x)
        for thing, part in zip(things, visible_parts(things), strict=True)
    )


def _draw_band(random: np.random.Generator) -> Band:
    return tuple(BANDS)[int(random.integers(len(BANDS)))]


def _between(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(random.random())
