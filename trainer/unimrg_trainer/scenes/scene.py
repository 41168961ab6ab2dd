"""One call makes one scene: image, exact depth, instances, contours, caption and questions, from (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimrg_trainer.rng import generator
from unimrg_trainer.scenes.language import Question, ask, caption
from unimrg_trainer.scenes.render import GROUNDS, THEMES, contours, render_depth, render_image
from unimrg_trainer.scenes.world import World, draw_world, label_map, visible_parts

MINIMUM_SIZE = 32

SCHEMA = 2
"""Goes up whenever the same (seed, index) gives other pixels or texts; part of the digest of prepared data."""


@dataclass(frozen=True)
class Scene:
    """A generated sample. All maps have the picture's side S.

    `image` uint8 [S, S, 3] RGB; `depth` uint8 [S, S], 0–255 over the image, nearer is brighter; `instances` int32 [S,
    S], 0 background, k + 1 for `world.things[k]`; `segmentation` uint8 [S, S], white contours on black.
    """

    image: np.ndarray
    depth: np.ndarray
    instances: np.ndarray
    segmentation: np.ndarray
    caption: str
    questions: tuple[Question, ...]
    world: World


def generate(seed: int, index: int, size: int) -> Scene:
    """Return scene `index` of the family `seed`; the world and the texts do not depend on `size` (pixels)."""
    if size < MINIMUM_SIZE:
        raise ValueError(f"a scene needs at least {MINIMUM_SIZE} pixels a side, not {size}: objects would blur")
    world = draw_world(generator("scene", seed, index, "world"), len(THEMES))
    labels = label_map(world.things, size)
    seen = list(zip(world.things, visible_parts(world.things), strict=True))
    return Scene(
        image=render_image(world, size),
        depth=render_depth(world, labels),
        instances=labels,
        segmentation=contours(labels),
        caption=caption(seen),
        questions=ask(generator("scene", seed, index, "questions"), seen, GROUNDS[world.theme]),
        world=world,
    )
