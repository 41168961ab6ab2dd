"""The writer's side of tracking: rank 0 appends what happened to files and never waits for a server.

One system call writes one line, so a SIGKILL loses nothing that was written before it. Segments are closed at
every commit; closed ones never change and are copied to the run's store, so a lost machine loses no
committed point. A full disk costs points, never the training.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from unimrg_api.redaction import REDACTED, clean, redact
from unimrg_trainer.files import write_atomically
from unimrg_trainer.storage.base import ObjectStore, put_once
from unimrg_trainer.tracking.segments import (
    SCORES,
    attempt_and_number,
    complete_bytes,
    encode,
    list_segments,
    new_values,
    read_records,
    segment_name,
)
from unimrg_trainer.tracking.upload_state import STATE_FILE

_logger = logging.getLogger(__name__)

ARTIFACT_LIMIT_BYTES = 64 << 20
STORE_FOLDER = "spool/"


class Spool:
    """Append-only record of one attempt.

    Every method may be called from any thread; none raises for a full disk.

    Time stamps never decrease, not even across attempts, whatever `clock` (seconds since 1970) says. A step
    that an earlier writer recorded in the same folder is recorded again only as far as it is new (see `new_values`):
    its first time stamp stays, so a server that gets the spool twice holds every point once. Of a value that was
    recorded twice, readers take the latest.
    """

    def __init__(self, folder: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.attempt = attempt
        self._disk_full = False
        self._clock = clock
        self._lock = threading.Lock()
        self._writer = os.urandom(4).hex()
        self._file: int | None = None
        self._artifacts = 0
        self._last_ts = 0
        self._earlier: dict[int, dict[str, float]] = {}
        written = map(attempt_and_number, list_segments(folder))
        self._number = max((number for by, number in written if by == attempt), default=0)
        for record in read_records(folder):
            self._last_ts = max(self._last_ts, record["ts"])
            if record["op"] == "step":
                self._earlier.setdefault(record["step"], {}).update(record["metrics"])

    def begin(self, resume_step: int) -> None:
        """Record that this attempt starts after `resume_step` optimiser steps (0: from the beginning).

        Earlier steps cannot come again and are forgotten, so that a long job's spool costs no memory.
        """
        self._earlier = {step: values for step, values in self._earlier.items() if step >= resume_step}
        self._append("attempt", resume_step=resume_step)

    def step(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Record the metrics of an optimiser step; return False if nothing had to be written.

        NaN and infinities are allowed.
        """
        earlier = self._earlier.get(step, {})
        values = new_values({name: float(value) for name, value in metrics.items()}, earlier)
        if not values or not self._append("step", step=step, metrics=values):
            return False
        # Scores are few, unlike the values of training, so this writer's own are compared too.
        if scores := {name: value for name, value in values.items() if name.startswith(SCORES)}:
            self._earlier.setdefault(step, {}).update(scores)
        return True

    def params(self, params: Mapping[str, object]) -> None:
        """Record parameters of the run; a later value does not replace them but becomes a tag.

        Secrets are replaced.
        """
        self._append("params", params=_redacted(params))

    def tags(self, tags: Mapping[str, object]) -> None:
        """Record tags of the run; a later value replaces an earlier one. Secrets are replaced."""
        self._append("tags", tags=_redacted(tags))

    def artifact(self, path: Path, folder: str = "") -> bool:
        """Record a small file (results, never a checkpoint); it is copied into the spool at once.

        `folder` is where it appears in the run. Returns False, after a warning, if it cannot be read or is too large.
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
        return self._append("artifact", path=place, folder=folder)

    def end(self, reason: str) -> None:
        """Record why this attempt ended."""
        self._append("end", reason=clean(reason, 500))

    def close_segment(self) -> list[str]:
        """Make what was written so far immutable and durable; return the names of all closed segments.

        Names are relative to the spool's folder, oldest first. Those of earlier attempts are closed because
        their writers are gone.
        """
        with self._lock:
            if self._file is not None:
                descriptor, self._file = self._file, None
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    _logger.warning("the tracking spool may not survive a power cut: %s", error)
                finally:
                    os.close(descriptor)
            return list_segments(self.folder)

    def _append(self, op: str, **fields: object) -> bool:
        with self._lock:
            self._last_ts = max(self._last_ts, int(self._clock() * 1000))
            line = encode({"op": op, "ts": self._last_ts, "attempt": self.attempt, **fields})
            try:
                written = os.write(self._descriptor(), line)
                if written < len(line):
                    raise OSError("the disk took only a part of a line")
            except OSError as error:
                if not self._disk_full:
                    _logger.warning("the tracking spool %s cannot be written, points are lost: %s", self.folder, error)
                self._disk_full = True
                # A torn line must stay the last of its segment: the next record goes to a new one.
                if self._file is not None:
                    os.close(self._file)
                    self._file = None
                return False
            return True

    def _descriptor(self) -> int:
        """The open segment, created when its first line comes so that no empty ones lie about."""
        if self._file is None:
            self._number += 1
            path = self.folder / segment_name(self.attempt, self._number, self._writer)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        return self._file


def copy_segments(folder: Path, names: list[str], store: ObjectStore) -> list[str]:
    """Copy closed segments (relative to `folder`) and the files that they name to `RUN/spool/`; return the new keys.

    `store` is rooted at RUN. What is there already is left alone, so it may be called any number of times. How far
    the server has them (`acknowledged.json`) is copied as well and replaces what was there: wherever the job goes
    on, what was acknowledged is not sent again. Raises what the store raises (StorageError, OSError).
    """
    present = {key for key, _ in store.list(STORE_FOLDER)}
    files = sorted(path for path in folder.glob("attempt-*/files/*/*") if not path.name.startswith("."))
    segments = set(names)
    new: list[str] = []
    for name in [*(path.relative_to(folder).as_posix() for path in files), *names]:
        key = STORE_FOLDER + name
        if key not in present:
            content = complete_bytes(folder / name) if name in segments else (folder / name).read_bytes()
            if put_once(store, key, content):
                new.append(key)
    state = folder / STATE_FILE
    if state.is_file():
        store.put(STORE_FOLDER + STATE_FILE, state.read_bytes())
    return new


def restore_segments(store: ObjectStore, folder: Path) -> list[str]:
    """Fetch from `RUN/spool/` what the local folder lacks; return the names that were fetched.

    Call it before `Spool` is opened on a machine that may not be the one of the last attempt: time stamps
    then go on where they ended, curves are whole, and repeated steps are recognised. The state of the upload comes
    first, so that the uploader beside never sees a segment without it.
    """
    fetched: list[str] = []
    for key, _ in sorted(store.list(STORE_FOLDER)):
        name = key.removeprefix(STORE_FOLDER)
        parts = name.split("/")
        ours = name == STATE_FILE or (parts[0].startswith("attempt-") and ".." not in parts)
        if not ours or (folder / name).exists():
            continue
        write_atomically(folder / name, store.get(key))
        fetched.append(name)
    return fetched


def _redacted(values: Mapping[str, object]) -> dict[str, str]:
    """Return the values as text: one whose name says that it is secret is left out, others are redacted."""
    secret = {name for name in values if redact(f"{name}: value") != f"{name}: value"}
    return {name: REDACTED if name in secret else redact(str(value)) for name, value in values.items()}
