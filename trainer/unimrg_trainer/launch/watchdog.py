"""Detects stalls: tells a stalled worker group from a slow one by heartbeats and the caller's clock alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stall:
    """There was no progress for `seconds`; `heartbeat` is the last one, None if there was none."""

    seconds: float
    heartbeat: Hashable | None


class Watchdog:
    """Counts the time since the heartbeat last *changed*.

    A heartbeat is any value that changes when work advances (stage, step, time of the report). Only change counts,
    never its value: a wall clock that jumps, or a report of an earlier attempt, cannot trigger or delay it.
    """

    def __init__(self, timeout: float, now: float) -> None:
        """`timeout` and all times are seconds of one monotonic clock; start-up counts towards the timeout."""
        self._timeout = timeout
        self._changed_at = now
        self._heartbeat: Hashable | None = None

    def observe(self, heartbeat: Hashable | None, now: float) -> Stall | None:
        """Take the heartbeat seen at `now`; return a Stall once it has not changed for the time-out."""
        if heartbeat is not None and heartbeat != self._heartbeat:
            self._heartbeat, self._changed_at = heartbeat, now
            return None
        silent = now - self._changed_at
        return Stall(silent, self._heartbeat) if silent >= self._timeout else None
