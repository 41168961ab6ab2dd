"""The stall rule, on a virtual clock."""

from __future__ import annotations

from unimrg_trainer.launch.watchdog import Stall, Watchdog


def test_ranks_that_report_in_time_are_never_stalled() -> None:
    watchdog = Watchdog(timeout=10, now=0)
    assert [watchdog.observe(("train", step), now=step * 9) for step in range(1, 100)] == [None] * 99


def test_a_heartbeat_that_does_not_change_in_time_is_a_stall() -> None:
    watchdog = Watchdog(timeout=10, now=100)
    assert watchdog.observe(("train", 1), now=105) is None
    assert watchdog.observe(("train", 1), now=114.9) is None
    assert watchdog.observe(("train", 1), now=115) == Stall(10, ("train", 1))


def test_ranks_that_never_report_are_stalled_from_their_start() -> None:
    watchdog = Watchdog(timeout=10, now=100)
    assert watchdog.observe(None, now=109) is None
    assert watchdog.observe(None, now=110) == Stall(10, None)


def test_a_report_that_disappears_is_no_progress() -> None:
    watchdog = Watchdog(timeout=10, now=0)
    assert watchdog.observe(("train", 1), now=1) is None
    assert watchdog.observe(None, now=6) is None
    assert watchdog.observe(("train", 1), now=11) == Stall(10, ("train", 1))


def test_a_wall_clock_that_jumps_back_still_counts_as_advance() -> None:
    watchdog = Watchdog(timeout=10, now=0)
    assert watchdog.observe(("train", 1, 1000.0), now=9) is None
    assert watchdog.observe(("train", 2, 10.0), now=18) is None
