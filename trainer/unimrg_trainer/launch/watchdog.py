"""The rule that distinguishes a stalled worker group from a slow one: pure, over heartbeats and the caller's clock."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stall:
    """Nothing advanced for `seconds`; `beat` is the last heartbeat, None if there was none."""

    seconds: float
    beat: Hashable | None


class Watchdog:
    """Counts the time since the heartbeat last *changed*.

    A heartbeat is any value that changes when work advances (phase, step, time of the report). Only change counts,
    never its value: a wall clock that jumps, or a report of an earlier attempt, cannot trigger or delay it.
    """

    def __init__(self, timeout: float, now: float) -> None:
        """`timeout` and all times are seconds of one monotonic clock; starting up counts like a step."""
        self._timeout = timeout
        self._changed_at = now
        self._beat: Hashable | None = None

    def observe(self, beat: Hashable | None, now: float) -> Stall | None:
        """Take the heartbeat seen at `now`; return a Stall once it has not changed for the time-out."""
        if beat is not None and beat != self._beat:
            self._beat, self._changed_at = beat, now
            return None
        silent = now - self._changed_at
        return Stall(silent, self._beat) if silent >= self._timeout else None
