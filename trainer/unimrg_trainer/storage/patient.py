"""A store whose reads ride out an outage: they are repeated until it answers again, as long as the patience lasts.

While a read takes longer than it should, it says so: the watchdog must not take it for a stall, and a person wants to
know what a training waits for.
"""

from __future__ import annotations

import builtins
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from unimrg_api.exit_codes import ExitCode
from unimrg_api.texts import backoff, duration
from unimrg_trainer.storage.base import Content, ObjectStore, StorageError

logger = logging.getLogger(__name__)

SLOW_SECONDS = 5.0
"""After so long a read counts as one that waits."""
TICK_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two attempts; no two are the same."""

T = TypeVar("T")


@dataclass
class Waits:
    """What to do while reads wait. Called from several threads."""

    tick: Callable[[], None] = lambda: None
    """Every second."""
    show: Callable[[str], None] = lambda text: None
    """What is waited for, in one line; "" once it is over."""
    raise_if_stopped: Callable[[], None] = lambda: None
    """Raises Interrupted where a stop was requested: nobody waits for the rest."""
    problem: str = field(default="", init=False)
    """What the last attempt met."""


class PatientStore:
    """`inner`, with reads that are repeated for `patience` seconds where trying again may help (UNAVAILABLE).

    Once the patience is over they raise what the last attempt met. Writes are not repeated.
    """

    def __init__(self, inner: ObjectStore, patience: float, waits: Waits) -> None:
        self.uri = inner.uri
        self._inner = inner
        self._patience = patience
        self._waits = waits
        self._began: dict[object, float] = {}
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._patiently(lambda: self._inner.get(key, offset, length))

    def size(self, key: str) -> int | None:
        return self._patiently(lambda: self._inner.size(key))

    def age(self, key: str) -> float | None:
        return self._patiently(lambda: self._inner.age(key))

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        return self._patiently(lambda: self._inner.list(prefix))

    def folders(self) -> builtins.list[str]:
        return self._patiently(self._inner.folders)

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        self._inner.put(key, data, if_absent=if_absent)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def sweep(self, folder: str) -> None:
        self._inner.sweep(folder)

    def _patiently(self, call: Callable[[], T]) -> T:
        began, attempt, token = time.monotonic(), 0, object()
        with self._lock:
            self._began[token] = began
            if self._watch is None:
                self._watch = threading.Thread(target=self._report_waits, name="storage-watch", daemon=True)
                self._watch.start()
        try:
            while True:
                try:
                    return call()
                except StorageError as error:
                    attempt += 1
                    pause = backoff(FIRST_PAUSE, LONGEST_PAUSE, attempt, random.random())
                    if error.exit_code is not ExitCode.UNAVAILABLE:
                        raise
                    if time.monotonic() - began + pause > self._patience:
                        raise _given_up(error, attempt, time.monotonic() - began) from error
                    self._waits.problem = error.message
                    logger.info("attempt %d failed, trying again: %s", attempt, error.message)
                    self._pause(pause)
        finally:
            with self._lock:
                del self._began[token]

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._waits.raise_if_stopped()
            time.sleep(min(left, TICK_SECONDS))

    def _report_waits(self) -> None:
        """Report, for as long as there are reads, whether one of them waits. This ends with the patience, so that a
        read that hangs for ever is found."""
        shown = False
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                oldest = min(self._began.values(), default=None)
                if oldest is None and not shown:
                    self._watch = None
                    return
            waited = 0.0 if oldest is None else time.monotonic() - oldest
            if SLOW_SECONDS <= waited <= self._patience + LONGEST_PAUSE:
                if not shown:
                    logger.warning("waiting for storage: %s does not answer. %s", self.uri, self._waits.problem)
                shown = True
                self._waits.tick()
                self._waits.show(f"waiting for storage ({self.uri}) since {duration(waited)}")
            elif shown:
                shown = False
                self._waits.problem = ""
                self._waits.show("")
                if waited < SLOW_SECONDS:
                    logger.warning("the wait for %s is over", self.uri)
                else:
                    logger.error("a read of %s has not returned for %s", self.uri, duration(waited))


def _given_up(error: StorageError, attempts: int, seconds: float) -> StorageError:
    if attempts < 2:
        return error
    message = f"{error.message} ({attempts} attempts in {seconds:.0f} s, spec.data.reading.patienceSeconds)"
    return StorageError(message, remedy=error.remedy, exit_code=error.exit_code)
