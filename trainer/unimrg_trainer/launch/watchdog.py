"""Detects stalls: tells a stalled worker group from a slow one by heartbeats and the caller's clock alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from unimrg_trainer.sections import REPEATED, Position, described

SHORTER = 3
"""A step, or a batch, is waited for a third of the time-out once one was finished …"""
SLOWER = 10
"""… but at least this many times as long as the slowest so far took."""


@dataclass(frozen=True)
class Heartbeat:
    """What changes when work advances."""

    stage: str
    step: int
    updated: float
    """When rank 0 last reported, by its clock; 0: not yet."""
    positions: dict[int, Position] = field(default_factory=dict)
    """Where each rank of this node is, as far as known."""

    @property
    def repeats(self) -> bool:
        """Whether every rank is at what takes about as long every time."""
        return bool(self.positions) and all(one.section in REPEATED for one in self.positions.values())

    def __str__(self) -> str:
        where = described(self.positions)
        return f"{self.stage}, step {self.step}" + (f"; {where}" if where else "")


@dataclass(frozen=True)
class Stall:
    """There was no progress for `seconds`; `heartbeat` is the last one, None if there was none."""

    seconds: float
    heartbeat: Heartbeat | None


class Watchdog:
    """Counts the time since the heartbeat last *changed*.

    Only change counts, never its value: a wall clock that jumps, or a report of an earlier attempt, cannot trigger or
    delay it.
    """

    def __init__(self, timeout: float, now: float) -> None:
        """`timeout` and all times are seconds of one monotonic clock; start-up counts towards the timeout."""
        self._timeout = timeout
        self._changed_at = now
        self._heartbeat: Heartbeat | None = None
        self._slowest = 0.0

    def observe(self, heartbeat: Heartbeat | None, now: float) -> Stall | None:
        """Take the heartbeat seen at `now`; return a Stall once it has not changed for the time-out."""
        silent = now - self._changed_at
        repeats = self._heartbeat is not None and self._heartbeat.repeats
        if heartbeat is not None and heartbeat != self._heartbeat:
            self._slowest = max(self._slowest, silent) if repeats else self._slowest
            self._heartbeat, self._changed_at = heartbeat, now
            return None
        limit = min(self._timeout, max(self._timeout / SHORTER, SLOWER * self._slowest)) if repeats else self._timeout
        return Stall(silent, self._heartbeat) if silent >= limit else None
