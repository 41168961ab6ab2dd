"""The write limit: its rate holds, a child never waits for a status, and a status never for an event."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.virtual_clock import VirtualClock
from tests.support.waiting import wait_until
from unimrg_operator.kube.throttle import Priority, Throttle, WriteLimit


def test_after_a_burst_of_one_second_the_rate_holds(virtual_clock: VirtualClock) -> None:
    waits: list[float] = []

    def sleep(_: Any, seconds: float | None) -> None:
        assert seconds is not None
        waits.append(seconds)
        virtual_clock.advance(seconds)

    throttle, start = Throttle(5.0, clock=virtual_clock, sleep=sleep), virtual_clock()
    for _ in range(5):
        throttle.wait(Priority.EVENT)
    assert waits == []
    for _ in range(20):
        throttle.wait(Priority.ACTION)
    assert abs(virtual_clock() - start - 4.0) < 1e-6


def test_what_is_more_urgent_goes_first(virtual_clock: VirtualClock) -> None:
    throttle, gone = Throttle(20.0, clock=virtual_clock), list[Priority]()
    for _ in range(20):
        throttle.wait(Priority.ACTION)  # nothing is left
    lock = threading.Lock()

    def send(priority: Priority) -> None:
        throttle.wait(priority)
        with lock:
            gone.append(priority)

    threads = [threading.Thread(target=send, args=(kind,), daemon=True) for kind in (Priority.EVENT, Priority.STATUS)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(throttle._waiting.values()) == 2)
    for number in (1, 2):
        virtual_clock.advance(0.05001)
        wait_until(lambda number=number: len(gone) == number)
    assert gone == [Priority.STATUS, Priority.EVENT]


def test_actions_do_not_wait_for_statuses_and_events(virtual_clock: VirtualClock) -> None:
    limit = WriteLimit(1.0)
    for _ in range(2):
        limit.wait(Priority.EVENT)
    limit.wait(Priority.ACTION)  # though the other budget is spent
