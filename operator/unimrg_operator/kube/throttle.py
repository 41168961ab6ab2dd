"""How fast the operator writes: so many requests a second, creations and deletions apart from what only informs.

A child never waits for a status or an event to be written, and a status never for an event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import IntEnum

BURST_SECONDS = 1.0
"""What was not used may be caught up on for so long."""

_ROUNDING = 1e-5


class Priority(IntEnum):
    """Kinds of writes, the most urgent first."""

    ACTION = 0
    """A creation or deletion of a child or pod."""
    STATUS = 1
    EVENT = 2


class Throttle:
    """One rate for several kinds of requests; of those that wait, the most urgent kind goes first."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self._rate = per_second
        self._clock = clock
        self._sleep = sleep
        self._condition = threading.Condition()
        self._tokens = max(1.0, per_second * BURST_SECONDS)
        self._counted_at = clock()
        self._waiting: Counter[Priority] = Counter()

    def wait(self, priority: Priority) -> None:
        """Return when a request of this kind may be sent."""
        with self._condition:
            self._waiting[priority] += 1
            try:
                while True:
                    urgent = any(count and kind < priority for kind, count in self._waiting.items())
                    missing = 1.0 - self._refill()
                    if missing <= _ROUNDING and not urgent:
                        self._tokens -= 1.0
                        return
                    self._sleep(self._condition, None if urgent else missing / self._rate)
            finally:
                self._waiting[priority] -= 1
                self._condition.notify_all()

    def _refill(self) -> float:
        now = self._clock()
        most = max(1.0, self._rate * BURST_SECONDS)
        self._tokens = min(most, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        return self._tokens


class WriteLimit:
    """The rates of one operator: one for creations and deletions, twice as much for statuses and events.

    A job has three statuses written until its second child is made: with as much for both, children would wait.
    """

    def __init__(self, per_second: float) -> None:
        self._actions, self._words = Throttle(per_second), Throttle(2 * per_second)

    def wait(self, priority: Priority) -> None:
        """Return when a request of this kind may be sent."""
        (self._actions if priority is Priority.ACTION else self._words).wait(priority)
