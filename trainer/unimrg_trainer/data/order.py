"""The order in which a data set is read: a pure function of (seed, source, row), so that resuming needs no state.

A source is `images` (one record per image) or `questions` (one per question). Objectives that name the same source get
the same record at the same global row: pixel, depth and segmentation see the same images (docs/method/recipe.md).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unimrg_trainer.rng import generator


def position(seed: int, source: str, size: int, global_row: int) -> int:
    """Return the record (0 … size − 1) that is read at `global_row` (0, 1, … over all epochs).

    Every epoch of `size` rows is a permutation of its own. Raises ValueError for an empty source or a negative row.
    """
    if size < 1:
        raise ValueError(f"the source {source!r} is empty: there is nothing to put in order")
    if global_row < 0:
        raise ValueError(f"rows are counted from 0, got {global_row}")
    epoch, place = divmod(global_row, size)
    return int(_permutation(seed, source, size, epoch)[place])


@lru_cache(maxsize=8)  # the current and the next epoch of a few sources; read-ahead threads straddle a boundary
def _permutation(seed: int, source: str, size: int, epoch: int) -> np.ndarray:
    return generator("order", seed, source, epoch).permutation(size)
