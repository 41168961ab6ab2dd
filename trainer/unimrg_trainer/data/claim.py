"""One writer at a time: a claim with a heartbeat, so that two jobs do not prepare the same data twice.

Claims are numbered, `CLAIM-0`, `CLAIM-1`, …: the highest counts. A stale one is never overwritten; whoever
succeeds in creating the next number has taken it over, so there is one winner without any compare-and-swap
in the store. A claim is stale if its process is known to be dead, or if its heartbeat does not change for
`stale_after` seconds of the *waiter's* clock, so that clocks need not agree.

The claim saves work only. That a data set is complete and one is guaranteed by its marker and by per-writer
folders: a writer that was taken over by mistake does no harm.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from types import TracebackType

from unimrg_trainer.data.shards import join
from unimrg_trainer.storage.base import AlreadyExists, NotFound, ObjectStore, StorageError

STALE_AFTER = 60.0

_log = logging.getLogger(__name__)


class Claim:
    """Held by one writer; beats in a thread until it is released. Use as a context manager."""

    def __init__(self, store: ObjectStore, key: str, writer: str, interval: float) -> None:
        self._store = store
        self._key = key
        self._writer = writer
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim-heartbeat", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._store.delete(self._key)
        except StorageError as failure:  # it goes stale by itself; what happened inside matters more
            _log.warning("the claim %s could not be released: %s", self._key, failure)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(self._interval):
            count += 1
            try:
                self._store.put(self._key, _content(self._writer, count))
            except StorageError as error:  # a missed beat is no reason to stop writing
                _log.warning("the claim %s could not be renewed: %s", self._key, error)


class ClaimWatch:
    """Tries to get the claim of one data set; remembers what it saw, to tell live writers from dead ones."""

    def __init__(self, store: ObjectStore, folder: str, writer: str, *, stale_after: float = STALE_AFTER) -> None:
        self._store = store
        self._folder = folder
        self._writer = writer
        self._stale_after = stale_after
        self._seen: tuple[str, bytes] | None = None
        self._since = 0.0

    def try_claim(self) -> Claim | None:
        """Return the claim if it is free or stale, else None: another writer is at work."""
        held = self._highest()
        if held is None:
            return self._create(0)
        number, key = held
        try:
            content = self._store.get(key)
        except NotFound:
            return None  # released just now: look again
        if self._seen != (key, content):
            self._seen, self._since = (key, content), time.monotonic()
        if _is_dead(content) or time.monotonic() - self._since >= self._stale_after:
            _log.warning("taking over from the writer of %s, which no longer beats", key)
            return self._create(number + 1)
        return None

    def _create(self, number: int) -> Claim | None:
        key = join(self._folder, f"CLAIM-{number}")
        content = _content(self._writer, 0)
        try:
            self._store.put(key, content, if_absent=True)
        except AlreadyExists:
            if not self._holds(key, content):
                return None  # else it is our own, and the reply to a first try was lost
        return Claim(self._store, key, self._writer, self._stale_after / 4)

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            return self._store.get(key) == content
        except NotFound:
            return False

    def _highest(self) -> tuple[int, str] | None:
        held = []
        for key, _ in self._store.list(join(self._folder, "CLAIM-")):
            number = key.rpartition("-")[2]
            if number.isdigit():
                held.append((int(number), key))
        return max(held, default=None)


def _content(writer: str, count: int) -> bytes:
    claim = {"writer": writer, "host": socket.gethostname(), "process": os.getpid(), "beat": count}
    return json.dumps(claim).encode()


def _is_dead(content: bytes) -> bool:
    """Whether the claim's process ran on this machine and is gone. False where that cannot be known."""
    try:
        claim = json.loads(content)
        host, process = claim["host"], int(claim["process"])
    except (ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname() or process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
