"""Gives each of several things another one: a random permutation that leaves nothing in its place."""

from __future__ import annotations

import numpy as np


def derangement(count: int, seed: int) -> list[int]:
    """Return a permutation of `count` ≥ 2 places in one cycle (Sattolo's): place i gets what stood at result[i] ≠ i."""
    if count < 2:
        raise ValueError(f"among {count} there is no other")
    random = np.random.Generator(np.random.Philox(seed))
    places = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(random.integers(last))
        places[last], places[other] = places[other], places[last]
    return places
