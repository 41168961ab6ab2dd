"""Chooses for the held-out rows the other image that each is shown when its loss without its own image is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.evaluation.derangement import derangement
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.other_image import OtherImage
from unimrg_trainer.sample import Sample


def with_other_images(
    objectives: Sequence[Objective], reader: RowReader, rows: int, seed: int
) -> list[Objective] | None:
    """Return the objectives with another image in each of the rows 0 … rows − 1; None if these show a single image.

    The images of these rows change places among themselves. All rows about one image are shown the same other one,
    whatever their objective.
    """
    read: dict[str, Callable[[], Sample]] = {}
    for objective in {objective.source: objective for objective in objectives}.values():
        for row in range(rows):
            again = partial(reader, objective, row)
            read.setdefault(again().key, again)
    keys = list(read)
    if len(keys) < 2:
        return None
    others = dict(zip(keys, (keys[other] for other in derangement(len(keys), seed)), strict=True))

    def image_for(key: str) -> np.ndarray:
        image = read[others[key]]().image
        assert image is not None, "the objective's task has required it"
        return image

    return [OtherImage(objective, image_for) for objective in objectives]
