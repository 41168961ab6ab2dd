"""A work queue of keys: a key waits once however often it is added, and is in the hands of one worker at a time."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from unimrg_api.texts import backoff

Key = TypeVar("Key", bound=Hashable)

BACK_OFF_SECONDS = 1.0
MOST_BACK_OFF_SECONDS = 300.0


class WorkQueue(Generic[Key]):
    """Keys in the order in which they became due. A worker takes one with `take` and gives it back with `done`.

    A key that is added while a worker has it comes again once that worker is done, so nothing is missed.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        """`clock` gives seconds that never go back, `chance` numbers from 0 to 1 for the jitter."""
        self._clock = clock
        self._chance = chance
        self._condition = threading.Condition()
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        """What is in `_ready`."""
        self._taken: set[Key] = set()
        self._again: set[Key] = set()
        """What was added while it was taken."""
        self._due: dict[Key, float] = {}
        """The earliest moment at which a key is wanted later; entries of `_timers` that differ are void."""
        self._timers: list[tuple[float, int, Key]] = []
        self._number = 0
        self._failures: dict[Key, int] = {}
        self._closed = False

    def add(self, key: Key) -> None:
        """Make a key due now."""
        with self._condition:
            self._add(key)
            self._condition.notify()

    def add_after(self, key: Key, seconds: float) -> None:
        """Make a key due in some seconds; of several such wishes the earliest counts."""
        with self._condition:
            due = self._clock() + max(seconds, 0.0)
            if self._due.get(key, due + 1.0) <= due:
                return
            self._due[key] = due
            self._number += 1
            heapq.heappush(self._timers, (due, self._number, key))
            self._condition.notify()

    def fail(self, key: Key, at_least: float = 0.0) -> float:
        """Make a key due after its back-off, which doubles with every failure in a row; return its seconds.

        `at_least` is what somebody asked to be left alone for.
        """
        with self._condition:
            count = self._failures.get(key, 0)
            self._failures[key] = count + 1
        seconds = max(backoff(BACK_OFF_SECONDS, MOST_BACK_OFF_SECONDS, count + 1, self._chance()), at_least)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """End a row of failures."""
        with self._condition:
            self._failures.pop(key, None)

    def take(self, timeout: float | None = None) -> Key | None:
        """Return the next key that is due; None after `timeout` seconds without one, or once closed."""
        end = None if timeout is None else self._clock() + timeout
        with self._condition:
            while not self._closed:
                now = self._clock()
                self._wake(now)
                if self._ready:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._taken.add(key)
                    return key
                if end is not None and end <= now:
                    return None
                moments = [moment for moment, _, _ in self._timers[:1]] + ([] if end is None else [end])
                self._condition.wait(min(moments) - now if moments else None)
            return None

    def done(self, key: Key) -> None:
        """Give a key back."""
        with self._condition:
            self._taken.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._add(key)
                self._condition.notify()

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
        """How many keys are due and not taken."""
        with self._condition:
            return len(self._ready) + len(self._again)

    def _add(self, key: Key) -> None:
        if key in self._taken:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)

    def _wake(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
