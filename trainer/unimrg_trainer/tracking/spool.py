"""The writer's side of tracking: rank 0 appends what happened to files and never waits for a server.

One system call writes one line, so a SIGKILL loses nothing that was written before it. Segments are closed at
every commit; closed ones never change and are copied beside the checkpoints, so a lost machine loses no
committed point. A full disk costs points, never the training.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from unimrg_api.redaction import clean
from unimrg_trainer.files import write_atomically
from unimrg_trainer.storage.base import AlreadyExists, ObjectStore
from unimrg_trainer.tracking.redaction import redacted
from unimrg_trainer.tracking.segments import (
    Record,
    SegmentName,
    complete_bytes,
    encode,
    list_segments,
    read_records,
)

_logger = logging.getLogger(__name__)

TRAINING = "train/"
"""Metrics that the job alone determines; others (speed, memory) differ whenever a step is run again."""

SCORES = "eval/"
"""Metrics of which an evaluation that is made again with other questions repeats some and changes some."""

LIMIT_BYTES = 1 << 30
ARTIFACT_LIMIT_BYTES = 64 << 20
STORE_FOLDER = "spool/"


class Spool:
    """Append-only record of one attempt.

    Every method may be called from any thread; none raises for a full disk.

    Time stamps never decrease, not even across attempts, whatever `clock` (seconds since 1970) says. A step
    that an earlier writer recorded in the same folder is not recorded again if its `train/*` values have the
    same bits: its first time stamp stays, so a server that gets the spool twice holds every point once. If one
    of them differs, all of them and what was measured with them are written under the new attempt, and readers
    take the latest. `eval/*` values are compared one by one, and only those that are new or changed are written.

    Above `limit_bytes` records of odd steps are left out, except those with `eval/*` values.
    """

    def __init__(
        self,
        folder: Path,
        attempt: int,
        clock: Callable[[], float] = time.time,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.folder = folder
        self.attempt = attempt
        self.lost = 0
        """Records that could not be written (disk full)."""
        self.thinned = 0
        """Records left out because the spool had reached its size limit."""
        self._clock = clock
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._writer = os.urandom(4).hex()
        self._file: int | None = None
        self._open: SegmentName | None = None
        self._artifacts = 0
        self._last_ts = 0
        self._bytes = 0
        self._earlier: dict[int, dict[str, float]] = {}
        own = [name.number for name in list_segments(folder) if name.attempt == attempt]
        self._number = max(own, default=0)
        for record in read_records(folder):
            self._last_ts = max(self._last_ts, record["ts"])
            if record["op"] == "step":
                self._earlier.setdefault(record["step"], {}).update(record["metrics"])
        self._bytes = sum((folder / str(name)).stat().st_size for name in list_segments(folder))

    def begin(self, resume_step: int) -> None:
        """Record that this attempt starts after `resume_step` optimiser steps (0: from the beginning).

        Earlier steps cannot come again and are forgotten, so that a long job's spool costs no memory.
        """
        self._earlier = {step: values for step, values in self._earlier.items() if step >= resume_step}
        self._append({"op": "attempt", "ts": 0, "attempt": self.attempt, "resume_step": resume_step})

    def step(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Record the metrics of an optimiser step; return False if nothing had to be written.

        NaN and infinities are allowed.
        """
        values = self._news(step, {name: float(value) for name, value in metrics.items()})
        if not values:
            return False
        scores = {name: value for name, value in values.items() if name.startswith(SCORES)}
        if self._bytes >= self._limit and step % 2 and not scores:
            self.thinned += 1
            return False
        written = self._append(
            {"op": "step", "ts": 0, "attempt": self.attempt, "step": step, "metrics": values},
        )
        if written and scores:
            # Few, unlike the values of training, so this writer's own are compared too.
            self._earlier.setdefault(step, {}).update(scores)
        return written

    def params(self, params: Mapping[str, object]) -> None:
        """Record parameters of the run; a later value does not replace them but becomes a tag.

        Secrets are replaced.
        """
        self._append({"op": "params", "ts": 0, "attempt": self.attempt, "params": redacted(params)})

    def tags(self, tags: Mapping[str, object]) -> None:
        """Record tags of the run; a later value replaces an earlier one. Secrets are replaced."""
        self._append({"op": "tags", "ts": 0, "attempt": self.attempt, "tags": redacted(tags)})

    def artifact(self, path: Path, folder: str = "") -> bool:
        """Record a small file (results, never a checkpoint); it is copied into the spool at once.

        `folder` is where it appears in the run. Returns False, after a warning, if it cannot be read or is
        too large.
        """
        with self._lock:
            self._artifacts += 1
            place = f"attempt-{self.attempt}/files/{self._writer}-{self._artifacts:06d}/{path.name}"
        try:
            if path.stat().st_size > ARTIFACT_LIMIT_BYTES:
                raise OSError(f"larger than {ARTIFACT_LIMIT_BYTES >> 20} MiB")
            write_atomically(self.folder / place, path.read_bytes())
        except OSError as error:
            _logger.warning("%s is not tracked: %s", path, error)
            return False
        return self._append({"op": "artifact", "ts": 0, "attempt": self.attempt, "path": place, "folder": folder})

    def end(self, reason: str) -> None:
        """Record why this attempt ended."""
        self._append({"op": "end", "ts": 0, "attempt": self.attempt, "reason": clean(reason, 500)})

    def close_segment(self) -> list[str]:
        """Make what was written so far immutable and durable; return the names of all closed segments.

        Names are relative to the spool's folder, oldest first. Those of earlier attempts are closed because
        their writers are gone.
        """
        with self._lock:
            if self._file is not None:
                descriptor, self._file, self._open = self._file, None, None
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    _logger.warning("the tracking spool may not survive a power cut: %s", error)
                finally:
                    os.close(descriptor)
        return self.closed_segments()

    def closed_segments(self) -> list[str]:
        """Return the names of the segments that no longer change, oldest first."""
        with self._lock:
            return [str(name) for name in list_segments(self.folder) if name != self._open]

    def _news(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """What of `values` has to be written: scores one by one, all the others or none of them."""
        earlier = self._earlier.get(step, {})
        changed = {name for name in values if name not in earlier or _bits(values[name]) != _bits(earlier[name])}
        others = {name for name in values if not name.startswith(SCORES)}
        training = {name for name in others if name.startswith(TRAINING)}
        keep_others = bool(training & changed) if training else not others <= earlier.keys()
        return {name: value for name, value in values.items() if (keep_others if name in others else name in changed)}

    def _append(self, record: Record) -> bool:
        with self._lock:
            record["ts"] = self._last_ts = max(self._last_ts, int(self._clock() * 1000))
            line = encode(record)
            try:
                written = os.write(self._descriptor(), line)
                if written < len(line):
                    raise OSError("the disk took only a part of a line")
            except OSError as error:
                if not self.lost:
                    _logger.warning("the tracking spool %s cannot be written, points are lost: %s", self.folder, error)
                self.lost += 1
                self._abandon_segment()
                return False
            self._bytes += len(line)
            return True

    def _descriptor(self) -> int:
        """The open segment, created when its first line comes so that no empty ones lie about."""
        if self._file is None:
            self._number += 1
            name = SegmentName(self.attempt, self._number, self._writer)
            path = self.folder / str(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._open = name
        return self._file

    def _abandon_segment(self) -> None:
        """A torn line must stay the last of its segment: the next record goes to a new one."""
        if self._file is not None:
            os.close(self._file)
            self._file = self._open = None


def copy_closed_segments(spool: Spool, store: ObjectStore) -> list[str]:
    """Copy the closed segments and the files that they name to `RUN/spool/`; return the keys that were new.

    Call it at a commit, after `Spool.close_segment`. `store` is rooted at RUN. What is there already is left
    alone, so it may be called any number of times. Errors of the store (StorageError, OSError) pass through
    to the commit.
    """
    return copy_segments(spool.folder, spool.closed_segments(), store)


def copy_segments(folder: Path, names: list[str], store: ObjectStore) -> list[str]:
    """Copy the named segments (relative to `folder`) to `RUN/spool/`, after the files that they name."""
    present = {key for key, _ in store.list(STORE_FOLDER)}
    files = sorted(path for path in folder.glob("attempt-*/files/*/*") if not path.name.startswith("."))
    segments = set(names)
    new: list[str] = []
    for name in [*(path.relative_to(folder).as_posix() for path in files), *names]:
        key = STORE_FOLDER + name
        if key in present:
            continue
        content = complete_bytes(folder / name) if name in segments else (folder / name).read_bytes()
        try:
            store.put(key, content, if_absent=True)
        except AlreadyExists:
            continue
        new.append(key)
    return new


def restore_segments(store: ObjectStore, folder: Path) -> list[str]:
    """Fetch from `RUN/spool/` what the local folder lacks; return the names that were fetched.

    Call it before `Spool` is opened on a machine that may not be the one of the last attempt: time stamps
    then go on where they ended, curves are whole, and repeated steps are recognised.
    """
    fetched: list[str] = []
    for key, _ in store.list(STORE_FOLDER):
        name = key.removeprefix(STORE_FOLDER)
        parts = name.split("/")
        if ".." in parts or not parts[0].startswith("attempt-") or (folder / name).exists():
            continue
        write_atomically(folder / name, store.get(key))
        fetched.append(name)
    return fetched


def _bits(value: float) -> bytes:
    """All NaNs count as one value; −0 and 0 as two."""
    return b"nan" if value != value else struct.pack("<d", value)
