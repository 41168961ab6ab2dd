"""Reading ahead in groups: the right bytes, few requests, bounded memory, and no group that waits for memory."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.support.dictionary_store import DictionaryStore
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data import read_ahead
from unimrg_trainer.data.read_ahead import Group, ReadAhead
from unimrg_trainer.data.shards import Extent
from unimrg_trainer.storage.base import StorageError

KB = 1 << 10


class SlowStore(DictionaryStore):
    """Counts reads, which wait until `gate` is open."""

    def __init__(self, objects: int, size: int) -> None:
        super().__init__()
        self.objects = {f"o{number}": random.Random(number).randbytes(size) for number in range(objects)}
        self.reads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self.reads.append(length or 0)
        assert self.gate.wait(10)
        return super().get(key, offset, length)


def groups_of(store: DictionaryStore, sample: int, per_group: int) -> list[list[Extent]]:
    """All samples of `sample` bytes of all objects, in random order, with a tar's header before each."""
    extents = [
        Extent(store, key, offset + 512, sample - 512)
        for key, content in store.objects.items()
        for offset in range(0, len(content), sample)
    ]
    random.Random(1).shuffle(extents)
    return [extents[start : start + per_group] for start in range(0, len(extents), per_group)]


def expected(extent: Extent) -> bytes:
    assert isinstance(extent.store, DictionaryStore)
    return extent.store.objects[extent.key][extent.offset :][: extent.length]


def test_every_piece_is_right_and_neighbours_are_read_at_once() -> None:
    store = SlowStore(objects=4, size=4096 * KB)
    groups = groups_of(store, 32 * KB, 16)
    with ReadAhead(iter(groups), first=7, memory_bytes=32 << 20) as ahead:
        for number, extents in enumerate(groups):
            with ahead.group(7 + number) as group:
                for extent in extents:
                    assert group.read(extent) == expected(extent)
    samples = sum(map(len, groups))
    assert samples == 512 and len(store.reads) < 128 + 40, "all but the first 4 MiB come in large reads"
    assert max(store.reads) <= read_ahead.READ_BYTES


def test_no_more_is_held_than_the_memory_allows() -> None:
    store = SlowStore(objects=2, size=2048 * KB)
    groups = groups_of(store, 64 * KB, 4)
    limit = 1 << 20
    with ReadAhead(iter(groups), memory_bytes=limit, connections=2) as ahead:
        for number, extents in enumerate(groups):
            with ahead.group(number) as group:
                for extent in extents:
                    group.read(extent)
                assert ahead.held <= 2 * limit


def test_a_group_that_is_larger_than_the_memory_is_read() -> None:
    store = SlowStore(objects=1, size=1024 * KB)
    (extents,) = groups_of(store, 64 * KB, 16)
    with ReadAhead(iter([extents]), memory_bytes=10 * KB) as ahead, ahead.group(0) as group:
        assert [group.read(extent) for extent in extents] == [expected(extent) for extent in extents]


def test_threads_may_take_groups_out_of_turn() -> None:
    store = SlowStore(objects=2, size=1024 * KB)
    groups = groups_of(store, 64 * KB, 4)
    with ReadAhead(iter(groups), memory_bytes=256 * KB) as ahead:
        held: list[Group] = [ahead.group(number) for number in (2, 0, 1, 3)]
        for number, group in zip((2, 0, 1, 3), held, strict=True):
            with group:
                assert [group.read(extent) for extent in groups[number]] == [expected(one) for one in groups[number]]


def test_what_was_not_planned_is_read_directly() -> None:
    store = SlowStore(objects=1, size=64 * KB)
    extent = Extent(store, "o0", 5, 10)
    with ReadAhead(iter(())) as ahead, ahead.group(3) as group:
        assert group.read(extent) == expected(extent)


def test_a_read_that_fails_fails_where_its_piece_is_used() -> None:
    class Broken(SlowStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            if key == "o1":
                raise StorageError("away")
            return super().get(key, offset, length)

    store = Broken(objects=2, size=64 * KB)
    good, bad = Extent(store, "o0", 0, 10), Extent(store, "o1", 0, 10)
    with ReadAhead(iter([[good], [bad]])) as ahead:
        with ahead.group(0) as group:
            assert group.read(good) == expected(good)
        with ahead.group(1) as group, pytest.raises(StorageError) as caught:
            group.read(bad)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_an_error_of_the_plan_comes_behind_the_groups_before_it() -> None:
    store = SlowStore(objects=1, size=1024 * KB)
    planned = groups_of(store, 64 * KB, 2)[:3]

    def groups() -> Iterator[Sequence[Extent]]:
        yield from planned
        raise KeyError("index")

    with ReadAhead(groups()) as ahead:
        for number, extents in enumerate(planned):
            with ahead.group(number) as group:
                assert [group.read(extent) for extent in extents] == [expected(extent) for extent in extents]
        with pytest.raises(KeyError, match="index"):
            ahead.group(len(planned))


def test_closing_ends_all_threads_while_nothing_is_taken() -> None:
    store = SlowStore(objects=1, size=1024 * KB)
    groups = groups_of(store, 64 * KB, 1)
    ahead = ReadAhead(iter(groups), memory_bytes=128 * KB)
    ahead.close()
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_however_little_they_need_few_groups_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "MOST_GROUPS", 8)
    monkeypatch.setattr(read_ahead, "GAP_BYTES", 0)
    store = SlowStore(objects=1, size=64 * KB)
    (extents,) = groups_of(store, KB, 64)
    taken = []

    def endless() -> Iterator[Sequence[Extent]]:
        while True:
            taken.append(extents[len(taken) % len(extents)])
            yield [taken[-1]]

    with ReadAhead(endless()) as ahead:
        for number in range(30):
            with ahead.group(number) as group:
                assert group.read(taken[number]) == expected(taken[number])
        time.sleep(0.3)  # without the limit hundreds are taken meanwhile
        assert len(taken) <= 30 + 2 * 8
