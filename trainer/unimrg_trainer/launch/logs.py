"""Logs of ranks: their paths, copying them to standard output while they grow, and reading their last part."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TAIL_BYTES = 1 << 20
"""How much of each log is saved to the run's store (docs/method/cluster.md)."""
POLL_SECONDS = 0.1
ECHO_SECONDS = 1.0
"""Time that the end of a stage waits for the last lines to be copied."""


def rank_log(folder: Path, rank: int) -> Path:
    """The log of one rank: standard output and standard error."""
    return folder / f"rank-{rank}.log"


def tail(path: Path, limit: int = TAIL_BYTES, since: int = 0) -> bytes:
    """The last `limit` bytes of a file after position `since`, from the start of a line; empty if there is no file."""
    try:
        with path.open("rb") as file:
            start = max(since, file.seek(0, 2) - limit)
            file.seek(start)
            content = file.read(limit)
    except OSError:
        return b""
    if start > since:
        content = content[content.find(b"\n") + 1 :]
    return content


class Echo:
    """Copies a growing log to standard output, for `kubectl logs`, in its own thread.

    A slow or closed reader must not block the supervision of the ranks. Use as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-echo", daemon=True)

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(ECHO_SECONDS)

    def _run(self) -> None:
        stopped = False
        try:
            while not stopped:
                stopped = self._stopped.wait(POLL_SECONDS)  # once more after the end, to copy the last lines
                self._copy()
        except OSError as error:
            logger.warning("the log is no longer copied to standard output: %s", error)

    def _copy(self) -> None:
        """Write what was added to the log since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read(TAIL_BYTES)
        while content:
            # past Python's buffer, whose lock a blocked thread would hold when the interpreter ends
            written = os.write(1, content)
            self._position += written
            content = content[written:]
