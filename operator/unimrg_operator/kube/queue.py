"""A work queue of keys: a key waits once however often it is added, and is in the hands of one worker at a time."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from unimrg_api.texts import backoff

Key = TypeVar("Key", bound=Hashable)

BACK_OFF_SECONDS = 1.0
MOST_BACK_OFF_SECONDS = 300.0


class WorkQueue(Generic[Key]):
    """Keys in the order in which they become due. A worker takes one with `take` and gives it back with `done`.

    A key that is added while a worker has it comes again once that worker is done, so nothing is missed. Of several
    moments at which a key is wanted only the earliest is kept: whoever looks at it then says when to look again.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        """`clock` gives seconds that never go back, `chance` numbers from 0 to 1 for the jitter."""
        self._clock = clock
        self._chance = chance
        self._condition = threading.Condition()
        self._due: dict[Key, float] = {}
        """When each key is wanted."""
        self._heap: list[tuple[float, int, Key]] = []
        """The same in order, for keys that are not taken; an entry that is not in `_due` any more is skipped."""
        self._numbers = itertools.count()
        self._taken: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._closed = False

    def add(self, key: Key) -> None:
        """Make a key due now."""
        self.add_after(key, 0.0)

    def add_after(self, key: Key, seconds: float) -> None:
        """Make a key due in some seconds, unless it is due earlier."""
        with self._condition:
            due = self._clock() + max(seconds, 0.0)
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                self._push(key)

    def fail(self, key: Key, at_least: float = 0.0) -> float:
        """Make a key due after its back-off, which doubles with every failure in a row; return its seconds.

        `at_least` is what somebody asked to be left alone for.
        """
        with self._condition:
            count = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = max(backoff(BACK_OFF_SECONDS, MOST_BACK_OFF_SECONDS, count, self._chance()), at_least)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """End a row of failures."""
        with self._condition:
            self._failures.pop(key, None)

    def take(self, timeout: float | None = None) -> Key | None:
        """Return the key that has been due for longest; None after `timeout` seconds without one, or once closed."""
        end = float("inf") if timeout is None else self._clock() + timeout
        with self._condition:
            while not self._closed:
                now = self._clock()
                due, key = self._first()
                if key is not None and due <= now:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._taken.add(key)
                    return key
                if end <= now:
                    return None
                wait = min(due, end) - now
                self._condition.wait(wait if wait < float("inf") else None)
            return None

    def done(self, key: Key) -> None:
        """Give a key back."""
        with self._condition:
            self._taken.discard(key)
            if key in self._due:
                self._push(key)

    def _push(self, key: Key) -> None:
        if key not in self._taken:
            heapq.heappush(self._heap, (self._due[key], next(self._numbers), key))
            self._condition.notify()

    def _first(self) -> tuple[float, Key | None]:
        """Return the key that is wanted first, and when."""
        while self._heap:
            due, _, key = self._heap[0]
            if key not in self._taken and self._due.get(key) == due:
                return due, key
            heapq.heappop(self._heap)
        return float("inf"), None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Let every `take` return None from now on."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def __len__(self) -> int:
        """How many keys are due and not taken, or wanted again by then."""
        with self._condition:
            now = self._clock()
            return sum(due <= now for due in self._due.values())

    def age(self) -> float:
        """Seconds for which the key has been due that waits for a worker longest; 0 if none does."""
        with self._condition:
            return max(self._clock() - self._first()[0], 0.0)
