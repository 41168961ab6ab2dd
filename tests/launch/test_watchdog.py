"""The stall rule, on a virtual clock."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from unimrg_trainer.launch.watchdog import Stall, Watchdog


@pytest.mark.parametrize(
    ("observed", "stall"),
    [
        ([(("train", step), step * 9) for step in range(1, 100)], None),
        ([(("train", 1), 5), (("train", 1), 14.9)], None),
        ([(("train", 1), 5), (("train", 1), 15)], Stall(10, ("train", 1))),
        ([(None, 9)], None),
        ([(None, 10)], Stall(10, None)),
        ([(("train", 1), 1), (None, 6), (("train", 1), 11)], Stall(10, ("train", 1))),
        ([(("train", 1, 1000.0), 9), (("train", 2, 10.0), 18)], None),
    ],
    ids=["in time", "not yet", "unchanged", "starting", "never", "a report that disappears", "a clock that jumps back"],
)
def test_only_a_heartbeat_that_changes_in_time_is_no_stall(
    observed: list[tuple[Hashable | None, float]], stall: Stall | None
) -> None:
    watchdog = Watchdog(timeout=10, now=0)
    *before, last = [watchdog.observe(beat, now) for beat, now in observed]
    assert set(before) <= {None}
    assert last == stall
