"""The work queue: one key, one worker; what waits, waits as long as it should; nothing is lost."""

from __future__ import annotations

import threading

import pytest

from tests.support.virtual_clock import VirtualClock
from unimrg_operator.kube.queue import WorkQueue

Queue = WorkQueue[str]


@pytest.fixture
def queue(virtual_clock: VirtualClock) -> Queue:
    return WorkQueue(clock=virtual_clock, chance=lambda: 1.0)


def drained(queue: Queue) -> list[str]:
    """Take all that is due."""
    keys = []
    while (key := queue.take(0)) is not None:
        keys.append(key)
    return keys


def test_a_key_that_is_added_often_comes_once_and_in_order(queue: Queue) -> None:
    for key in ("b", "a", "b", "a", "c"):
        queue.add(key)
    assert len(queue) == 3
    assert drained(queue) == ["b", "a", "c"]


def test_of_several_later_times_the_earliest_counts(queue: Queue, virtual_clock: VirtualClock) -> None:
    for seconds in (30.0, 10.0, 20.0):
        queue.add_after("a", seconds)
    virtual_clock.advance(9.9)
    assert drained(queue) == []
    virtual_clock.advance(0.1)
    assert drained(queue) == ["a"]
    queue.done("a")
    virtual_clock.advance(100.0)
    assert drained(queue) == []


def test_the_back_off_doubles_to_a_limit_until_a_success(queue: Queue) -> None:
    assert [queue.fail("a") for _ in range(10)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]
    assert queue.fail("b") == 1.0
    queue.forget("a")
    assert queue.fail("a") == 1.0


def test_the_jitter_takes_off_up_to_half_but_never_of_retry_after() -> None:
    queue: Queue = WorkQueue(chance=lambda: 0.0)
    assert queue.fail("a") == 0.5
    assert queue.fail("a", at_least=7.0) == 7.0


def test_a_waiting_worker_gets_what_a_thread_adds_or_ends_when_closed() -> None:
    queue: Queue = WorkQueue()
    got: list[str | None] = []
    workers = [threading.Thread(target=lambda: got.append(queue.take(20.0))) for _ in range(3)]
    for worker in workers:
        worker.start()
    queue.add_after("a", 0.05)
    while not got:
        workers[0].join(0.01)
    queue.close()
    for worker in workers:
        worker.join(10.0)
    assert got == ["a", None, None]
    queue.add("a")
    assert queue.take(0) is None


def test_many_workers_never_share_a_key_and_miss_none() -> None:
    queue: WorkQueue[int] = WorkQueue()
    guard = threading.Lock()
    held: set[int] = set()
    shared: list[int] = []
    seen = dict.fromkeys(range(20), 0)
    added = dict.fromkeys(range(20), 0)

    def work() -> None:
        while (key := queue.take(0.5)) is not None:
            with guard:
                if key in held:
                    shared.append(key)
                held.add(key)
                seen[key] = added[key]
            with guard:
                held.discard(key)
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for number in range(4000):
        key = number % 20
        with guard:
            added[key] += 1
        queue.add(key)
    for worker in workers:
        worker.join(30.0)
    assert not shared
    assert seen == added  # whoever came last for a key saw the last addition
