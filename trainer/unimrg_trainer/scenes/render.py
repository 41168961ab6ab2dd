"""Draws a world: shaded image, exact depth map, instance map and contours, with numpy only.

Only additions, products, quotients and square roots are used, and sums are taken over integers, so the
pixels are the same on every machine.
"""

from __future__ import annotations

import numpy as np

from unimrg_trainer.scenes.world import COLOURS, Thing, World, pixel_centres

SUPERSAMPLING = 4
"""Samples per pixel side of the image; maps are never smoothed, they hold the value at the pixel's centre."""

THEMES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((120, 170, 214), (206, 222, 232), (176, 160, 132), (138, 120, 94)),  # clear day over sand
    ((150, 158, 168), (204, 208, 212), (142, 144, 148), (98, 100, 106)),  # overcast over concrete
    ((74, 96, 140), (222, 178, 150), (120, 104, 100), (76, 66, 68)),  # dusk over earth
    ((24, 28, 52), (62, 70, 104), (72, 76, 84), (40, 42, 50)),  # night over asphalt
)
"""RGB of: top of the sky, sky at the horizon, ground at the horizon, nearest ground. Pale on purpose: things are not.
"""

GROUNDS = ("light", "light", "dark", "dark")
"""What the ground of each theme is called."""

_LIGHT = (-0.48, -0.60, 0.64)  # towards the light: from the upper left, in front
_SHADOW = 0.68


def render_image(world: World, size: int) -> np.ndarray:
    """Return the shaded, antialiased picture uint8 [size, size, 3]."""
    fine = size * SUPERSAMPLING
    canvas = _background(world, fine)
    x, y = pixel_centres(fine)
    for thing in world.things:
        rows, columns = _box(thing, fine)
        _cast_shadow(canvas[rows, columns], thing, world.horizon, x[:, columns], y[rows])
    for thing in world.things:
        rows, columns = _box(thing, fine)
        _paint(canvas[rows, columns], thing, x[:, columns], y[rows])
    quantised = np.floor(np.clip(canvas, 0, 255) + 0.5).astype(np.int32)
    blocks = quantised.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
    samples = SUPERSAMPLING * SUPERSAMPLING
    mean: np.ndarray = (blocks.sum(axis=(1, 3)) + samples // 2) // samples
    return mean.astype(np.uint8)


def render_depth(world: World, labels: np.ndarray) -> np.ndarray:
    """Return disparity as uint8 [size, size], stretched to 0–255 over this image: nearer is brighter."""
    size = len(labels)
    _, y = pixel_centres(size)
    disparity = np.broadcast_to(world.ground_disparity(y), labels.shape).copy()
    for index, thing in enumerate(world.things):
        disparity[labels == index + 1] = thing.disparity
    low, high = disparity.min(), disparity.max()
    stretched: np.ndarray = np.floor((disparity - low) / (high - low) * 255 + 0.5)
    return stretched.astype(np.uint8)


def contours(labels: np.ndarray) -> np.ndarray:
    """Return white one-pixel contours on black, uint8 [size, size]; labels must rise from far to near.

    A pixel is white if one of its four neighbours shows something farther: every border is drawn once, on
    the side of the thing that occludes. The look is that of the reference's maximum over Canny edges of
    masks (docs/method/recipe.md).
    """
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:] |= labels[1:] > labels[:-1]
    edge[:-1] |= labels[:-1] > labels[1:]
    edge[:, 1:] |= labels[:, 1:] > labels[:, :-1]
    edge[:, :-1] |= labels[:, :-1] > labels[:, 1:]
    return np.where(edge, 255, 0).astype(np.uint8)


def _background(world: World, size: int) -> np.ndarray:
    """Sky and ground as float64 [size, size, 3]."""
    _, y = pixel_centres(size)
    top, skyline, far, near = (np.array(colour, dtype=np.float64) for colour in THEMES[world.theme])
    height = np.clip(y / world.horizon, 0, 1)[..., None]
    nearness = world.ground_disparity(y)[..., None]
    sky = top + (skyline - top) * height
    ground = far + (near - far) * nearness
    column = np.where((y < world.horizon)[..., None], sky, ground)
    return np.broadcast_to(column, (size, size, 3)).copy()


def _box(thing: Thing, size: int) -> tuple[slice, slice]:
    """Rows and columns that a thing and its shadow can touch."""
    reach = thing.size * 0.85
    top, bottom = max(int((thing.y - reach) * size), 0), min(int((thing.y + reach) * size) + 1, size)
    left, right = max(int((thing.x - reach) * size), 0), min(int((thing.x + reach) * size) + 1, size)
    return slice(top, bottom), slice(left, right)


def _cast_shadow(canvas: np.ndarray, thing: Thing, horizon: float, x: np.ndarray, y: np.ndarray) -> None:
    """Darken the ground below and to the right of a thing, softly towards the rim."""
    across = (x - thing.x - 0.12 * thing.size) / (0.62 * thing.size)
    along = (y - thing.foot + 0.02 * thing.size) / (0.15 * thing.size)
    distance = across * across + along * along
    darkness = (1 - _SHADOW) * np.clip(1.6 * (1 - distance), 0, 1) * (y > horizon)
    canvas *= 1 - darkness[..., None]


def _paint(canvas: np.ndarray, thing: Thing, x: np.ndarray, y: np.ndarray) -> None:
    """Paint one thing over the canvas with its shading."""
    inside = thing.covers(x, y)
    u, v = np.broadcast_arrays(*thing.local(x, y))
    brightness = _brightness(thing.shape, u[inside], v[inside])
    base = np.array(COLOURS[thing.colour], dtype=np.float64)
    lit = base * np.minimum(brightness, 1)[:, None]
    canvas[inside] = lit + (255 - base) * np.maximum(brightness - 1, 0)[:, None]


def _brightness(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the light at points of the thing's own frame: below 1 darker than its colour, above 1 whiter."""
    brightness: np.ndarray
    if shape == "circle":  # a ball
        depth = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        facing = np.maximum(u * _LIGHT[0] + v * _LIGHT[1] + depth * _LIGHT[2], 0)
        brightness = 0.55 + 0.62 * facing
    elif shape == "triangle":  # a pyramid: lit face and shaded face
        brightness = np.where(u < 0, 1.05 - 0.10 * v, 0.78 - 0.08 * v)
    else:
        brightness = 1.0 - 0.10 * u - 0.12 * v
    return brightness
