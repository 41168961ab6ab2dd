"""Reading ahead: in order, bounded, stops cleanly and hands exceptions over where they belong."""

from __future__ import annotations

import threading
from itertools import islice

import pytest

from unimrg_trainer.data.prefetch import Prefetcher


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_items_come_in_order_although_later_ones_are_ready_first() -> None:
    third = threading.Event()

    def fetch(number: int) -> int:
        if number == 7:
            third.set()
        elif number == 5:
            assert third.wait(5)
        return number * 10

    with Prefetcher(fetch, first=5, depth=6, threads=2) as items:
        assert list(islice(items, 12)) == [number * 10 for number in range(5, 17)]
    assert threads_left() == []


def test_items_are_made_while_the_caller_is_busy() -> None:
    third = threading.Event()
    with Prefetcher(lambda number: third.set() if number == 2 else None, first=0, depth=3) as items:
        next(items)
        assert third.wait(5)


def test_an_exception_comes_where_its_item_would_have_come_and_closes() -> None:
    def fetch(number: int) -> int:
        if number == 2:
            raise KeyError("record 2")
        return number

    items = Prefetcher(fetch, first=0, depth=4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="record 2"):
        next(items)
    assert threads_left() == []
    with pytest.raises(RuntimeError, match="closed"):
        next(items)


def test_closing_waits_for_running_items_and_drops_pending_ones() -> None:
    started, release, fetched = threading.Event(), threading.Event(), []

    def fetch(number: int) -> int:
        started.set()
        release.wait(5)
        fetched.append(number)
        return number

    items = Prefetcher(fetch, first=0, depth=5, threads=1)
    assert started.wait(5)
    threading.Timer(0.05, release.set).start()
    items.close()
    items.close()
    assert fetched == [0]
    assert threads_left() == []
    with pytest.raises(RuntimeError, match="closed"):
        next(items)
