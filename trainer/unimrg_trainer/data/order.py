"""The order in which data is read: a pure function of (seed, source, row), so that resuming needs no state.

A source is `images` (one record per image) or `questions` (one per question). Objectives that name the same source get
the same record at the same global row: pixel, depth and segmentation see the same images (docs/method/recipe.md). What
a row gets does not depend on who reads it, so it is the same at any number of processes.

Every epoch puts the shards into another order and cuts it into windows of a few shards; a window is one permutation of
all its records. So records that are read at about the same time lie in few objects, and neighbours are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np

from unimrg_trainer.rng import generator

WINDOW_SHARDS = 8
"""2,048 images of data that we prepared, whose items lie in the shards at random: a window is a sample of all."""


class Order(Protocol):
    """Which record is read at each global row (0, 1, … over all epochs); safe between threads."""

    def record(self, row: int) -> int:
        """Return the record at a row."""
        ...

    def substitutes(self, row: int) -> Iterator[int]:
        """Return the records that take its place, one after the other, where the record at a row is damaged."""
        ...


class StoredOrder:
    """The `size` records as they are stored, over and over: for evaluation, where nothing takes another's place."""

    def __init__(self, size: int) -> None:
        self._size = size

    def record(self, row: int) -> int:
        return row % self._size

    def substitutes(self, row: int) -> Iterator[int]:
        return iter(())


class WindowedOrder:
    """The order of one data set. Raises ValueError for an empty source, and for a negative row."""

    def __init__(self, seed: int, source: str, sizes: Sequence[int]) -> None:
        """`sizes` are the numbers of records of the shards, as they are stored; records are numbered through."""
        self._seed, self._source = seed, source
        ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        self._size = int(ends[-1]) if len(ends) else 0
        if self._size < 1:
            raise ValueError(f"the source {source!r} is empty: there is nothing to put in order")
        kept = np.flatnonzero(np.diff(ends, prepend=0))
        self._starts, self._ends = np.concatenate(([0], ends))[kept], ends[kept]
        # the current and the next of each: threads that read ahead straddle a boundary
        self._epoch = lru_cache(maxsize=2)(self._lay_out)
        self._window = lru_cache(maxsize=3)(self._shuffle)

    def record(self, row: int) -> int:
        window, place = self._find(row)
        return int(window[place])

    def substitutes(self, row: int) -> Iterator[int]:
        """The rest of the row's window, from the record behind it on."""
        window, place = self._find(row)
        return (int(window[(place + step) % len(window)]) for step in range(1, len(window)))

    def _find(self, row: int) -> tuple[np.ndarray, int]:
        """Return the window of a row, as record numbers in the order in which they are read, and the place in it."""
        if row < 0:
            raise ValueError(f"rows are counted from 0, got {row}")
        epoch, place = divmod(row, self._size)
        bounds = self._epoch(epoch)[1]
        number = int(np.searchsorted(bounds, place, side="right")) - 1
        return self._window(epoch, number), place - int(bounds[number])

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards in the order of an epoch, and the place at which each window begins."""
        shards = generator("shards", self._seed, self._source, epoch).permutation(len(self._starts))
        behind = np.cumsum((self._ends - self._starts)[shards])
        return shards, np.concatenate(([0], behind[WINDOW_SHARDS - 1 : -1 : WINDOW_SHARDS]))

    def _shuffle(self, epoch: int, number: int) -> np.ndarray:
        shards, bounds = self._epoch(epoch)
        chosen = np.sort(shards[number * WINDOW_SHARDS :][:WINDOW_SHARDS])
        records = np.concatenate([np.arange(self._starts[shard], self._ends[shard]) for shard in chosen])
        return generator("order", self._seed, self._source, epoch * len(bounds) + number).permutation(records)


class MixedOrder:
    """Rows of several data sets in fixed proportions, each with epochs of its own.

    Of any first n rows a data set has its share of n, to within as many rows as there are data sets: the first takes
    row r where ⌊share · r⌋ grows, the others in the same way divide what it leaves.
    """

    def __init__(self, parts: Sequence[tuple[Order, int]], weights: Sequence[Fraction]) -> None:
        """`parts` are each data set's order and the number of its first record; a weight of 0 leaves one out.

        Raises ValueError where all weights are 0.
        """
        if not any(weights):
            raise ValueError("every weight is 0: there is nothing to mix")
        self._parts = parts
        # as pairs of integers: exact, and cheaper for a row than fractions
        self._shares = [
            (weight / rest).as_integer_ratio() if (rest := sum(weights[index:], Fraction())) else (0, 1)
            for index, weight in enumerate(weights)
        ]

    def record(self, row: int) -> int:
        order, start, own = self._find(row)
        return start + order.record(own)

    def substitutes(self, row: int) -> Iterator[int]:
        order, start, own = self._find(row)
        return (start + record for record in order.substitutes(own))

    def _find(self, row: int) -> tuple[Order, int, int]:
        """Return the order that a row belongs to, the number of its first record, and the row within it."""
        for (order, start), (above, below) in zip(self._parts, self._shares, strict=True):
            before = row * above // below
            if (row + 1) * above // below > before:
                return order, start, before
            row -= before
        raise AssertionError("the last share is the whole rest")
