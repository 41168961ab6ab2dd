"""The stall rule, on a virtual clock."""

from __future__ import annotations

import pytest

from unimrg_trainer.launch.watchdog import Heartbeat, Stall, Watchdog
from unimrg_trainer.sections import Position


def beat(step: int, updated: float = 1.0) -> Heartbeat:
    return Heartbeat("train", step, updated)


@pytest.mark.parametrize(
    ("observed", "stall"),
    [
        ([(beat(step), step * 9) for step in range(1, 100)], None),
        ([(beat(1), 5), (beat(1), 14.9)], None),
        ([(beat(1), 5), (beat(1), 15)], Stall(10, beat(1))),
        ([(None, 9)], None),
        ([(None, 10)], Stall(10, None)),
        ([(beat(1), 1), (None, 6), (beat(1), 11)], Stall(10, beat(1))),
        ([(beat(1, 1000.0), 9), (beat(2, 10.0), 18)], None),
    ],
    ids=["in time", "not yet", "unchanged", "starting", "never", "a report that disappears", "a clock that jumps back"],
)
def test_only_a_heartbeat_that_changes_in_time_is_no_stall(
    observed: list[tuple[Heartbeat | None, float]], stall: Stall | None
) -> None:
    watchdog = Watchdog(timeout=10, now=0)
    *before, last = [watchdog.observe(beat, now) for beat, now in observed]
    assert set(before) <= {None}
    assert last == stall


def at(count: int, *sections: str) -> Heartbeat:
    return Heartbeat("train", 1, 1.0, {rank: Position(section, 1, count) for rank, section in enumerate(sections)})


@pytest.mark.parametrize(
    ("observed", "limit"),
    [
        ([(at(1, "step", "fetch"), 100)], 30),
        ([(at(1, "first step", "first step"), 0)], 90),
        ([(at(1, "step", "save"), 0)], 90),
        ([(at(1, "step", "step"), 0), (at(2, "step", "step"), 5)], 50),
        ([(at(1, "step", "step"), 0), (at(2, "step", "step"), 20)], 90),
        ([(at(1, "save", "save"), 0), (at(2, "step", "step"), 20)], 30),
    ],
    ids=["a third", "the first step", "one saves", "ten times the slowest", "never more", "a slow save is no step"],
)
def test_between_steps_a_third_of_the_time_out_is_waited(observed: list[tuple[Heartbeat, float]], limit: float) -> None:
    watchdog = Watchdog(timeout=90, now=0)
    for one, now in observed:
        watchdog.observe(one, now)
    last, began = observed[-1]
    assert watchdog.observe(last, began + limit - 0.1) is None
    assert watchdog.observe(last, began + limit) == Stall(limit, last)
