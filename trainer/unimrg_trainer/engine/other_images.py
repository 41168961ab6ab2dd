"""Chooses for the held-out rows the other image that each is shown when its loss without its own image is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.evaluation.derangement import derangement
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.other_image import OtherImage
from unimrg_trainer.sample import Sample


def with_other_images(
    objectives: Sequence[Objective], held_out: Dataset, rows: int, seed: int
) -> list[Objective] | None:
    """Return the objectives with another image in each of the rows 0 … rows − 1; None if these show a single image.

    The images of these rows change places among themselves. All rows about one image are shown the same other one,
    whatever their objective.
    """
    readers = {"questions": held_out.question_sample, "images": held_out.image_sample}
    sizes = {"questions": len(held_out.questions), "images": len(held_out.images)}
    places: dict[str, Callable[[], Sample]] = {}
    for source in sorted({objective.source for objective in objectives}):
        for number in range(min(rows, sizes[source])):
            key = readers[source](number, maps=(), image=False).key
            places.setdefault(key, partial(readers[source], number, maps=()))
    keys = list(places)
    if len(keys) < 2:
        return None
    others = dict(zip(keys, (keys[other] for other in derangement(len(keys), seed)), strict=True))

    def image_for(key: str) -> np.ndarray:
        image = places[others[key]]().image
        assert image is not None, "the objective's task has required it"
        return image

    return [OtherImage(objective, image_for) for objective in objectives]
