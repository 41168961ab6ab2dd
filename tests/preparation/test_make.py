"""Making a shard: how much is in memory at once, what one bad item costs, and which splits get maps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.data.shards import CorruptDataError, ItemIssue, ShardIndex, index_of
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.items import Items
from unimrg_trainer.preparation.make import READ_AHEAD, SAMPLES_AT_ONCE, Maker
from unimrg_trainer.storage.base import StorageError


class Greys:
    """A source of one split whose images are grey; `strange` says what becomes of an item instead."""

    def __init__(self, split: str, count: int, strange: Callable[[int], SourceSample | None] = lambda _: None) -> None:
        self.splits: Mapping[str, int] = {split: count}
        self.texts: Mapping[str, int] = {}
        self.lock, self.read, self._strange = threading.Lock(), 0, strange

    def identity(self) -> Any: ...

    def sample(self, split: str, number: int) -> SourceSample:
        with self.lock:
            self.read += 1
        return self._strange(number) or SourceSample(np.full((2, 3, 3), number, np.uint8), name=f"grey {number}")


class Halves:
    """Makes a map of half the brightness."""

    map = "half"

    def identity(self) -> Any: ...

    def produce(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [image[:, :, 0] // 2 for image in images]


def make(source: Greys, done: Callable[[int], None] = lambda _: None) -> ShardIndex:
    (split,) = source.splits
    items = Items([source], split)
    (part,) = items.parts()
    return index_of(Maker([Halves()]).make(items, part, done), "here")


def test_no_more_items_are_read_than_fit_into_memory() -> None:
    source, ahead = Greys("train", 100), list[int]()
    index = make(source, lambda done: ahead.append(source.read - done))
    assert len(index.samples) == len(ahead) == 100
    assert max(ahead) < READ_AHEAD + SAMPLES_AT_ONCE and ahead[-1] == 0


def strange_size() -> SourceSample:
    return SourceSample(np.zeros((0, 0, 3), np.uint8), name="no pixels")


def deep_text() -> SourceSample:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return SourceSample(questions=[{"question": nested}], name="deep")


def raising(error: Exception) -> Callable[[], SourceSample]:
    def sample() -> SourceSample:
        raise error

    return sample


@pytest.mark.parametrize(
    ("strange", "name", "kind"),
    [
        (strange_size, "no pixels", "error"),
        (deep_text, "deep", "RecursionError"),
        (lambda: b"\xff".decode(), "item 2", "UnicodeDecodeError"),
        (raising(MemoryError()), "item 2", "MemoryError"),
        (raising(cv2.error("resize")), "item 2", "error"),
    ],
)
def test_what_nobody_foresaw_costs_one_item(strange: Callable[[], SourceSample], name: str, kind: str) -> None:
    index = make(Greys("train", 5, lambda number: strange() if number == 2 else None))
    assert index.issues == [ItemIssue(number=2, name=name, reason=f"it cannot be read: {kind}", left_out=True)]
    assert [sample.key[-1] for sample in index.samples] == ["0", "1", "3", "4"]


@pytest.mark.parametrize("error", [UserError("no"), StorageError("no"), CorruptDataError("no")])
def test_what_concerns_more_than_one_item_ends_the_stage(error: UserError) -> None:
    with pytest.raises(type(error)):
        make(Greys("train", 5, lambda number: raising(error)() if number == 2 else None))


@pytest.mark.parametrize(("split", "maps"), [("train", True), ("heldOut", True), ("preview", False)])
def test_pictures_for_sample_grids_get_no_maps(split: str, maps: bool) -> None:
    assert {"half.png" in sample.members for sample in make(Greys(split, 9)).samples} == {maps}
