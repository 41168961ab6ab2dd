"""Events wait here to be written, so that no worker waits for them: they are the least urgent of all writes."""

from __future__ import annotations

import threading
from collections import deque

from unimrg_operator.app.events import Publisher
from unimrg_operator.core.decision import Event
from unimrg_operator.core.observation import ObservedJob

MOST_EVENTS = 2000
"""When so many wait the oldest is given up."""


class Outbox:
    """Takes events at once and hands them to a publisher in a thread of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: deque[tuple[ObservedJob, Event]] = deque(maxlen=MOST_EVENTS)
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def publish(self, job: ObservedJob, event: Event) -> None:
        """Have an event about a job written. Never waits and never fails."""
        with self._condition:
            self._waiting.append((job, event))
            self._condition.notify()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    if self._closed:
                        return
                    self._condition.wait()
                job, event = self._waiting.popleft()
            self._publisher.publish(job, event)
