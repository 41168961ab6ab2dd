"""The writer's side of tracking: rank 0 appends what happened to files and never waits for a server.

One system call writes one line, so a SIGKILL loses nothing that was written before it. Segments are closed at
every commit; closed ones never change and are copied to the run's store, so a lost machine loses no
committed point. A full disk costs points, never the training.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from unimrg_api.redaction import clean, redact, redact_values
from unimrg_trainer.files import write_atomically
from unimrg_trainer.storage.base import ObjectStore, put_once
from unimrg_trainer.tracking.segments import list_segments, read_records, segment_name, writer_of

_logger = logging.getLogger(__name__)

FILE_LIMIT_BYTES = 64 << 20
STORE_FOLDER = "spool/"


class Spool:
    """Append-only record of one attempt: each line says what it adds to the run.

    Every method may be called from any thread; none raises for a full disk. Time stamps never decrease, not even
    across attempts, whatever `clock` (seconds since 1970) says. Nothing is compared here: a step that is run again is
    written again, readers take the latest, and the uploader sends only what the server lacks.
    """

    def __init__(self, folder: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.attempt = attempt
        self._disk_full = False
        self._clock = clock
        self._lock = threading.Lock()
        self._writer = os.urandom(4).hex()
        self._file: int | None = None
        self._last_ts = max((record.ts for record in read_records(folder)), default=0)
        ours = (name for name in list_segments(folder) if name.startswith(f"attempt-{attempt}/"))
        self._number = max((int(name.split("-")[2]) for name in ours), default=0)

    def begin(self, resume_step: int) -> None:
        """Record that this attempt starts after `resume_step` optimiser steps (0: from the beginning)."""
        began = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        tags = {
            "unimrg.attempt": str(self.attempt),
            f"unimrg.attempt.{self.attempt}": f"{began}, after step {resume_step}",
        }
        self._append(resume_step=resume_step, tags=tags)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics after so many optimiser steps. NaN and infinities are allowed."""
        self._append(step=step, metrics={name: float(value) for name, value in metrics.items()})

    def params(self, params: Mapping[str, object]) -> None:
        """Record parameters of the run; a later value does not replace them but becomes a tag. Secrets are replaced."""
        self._append(params=_texts(params))

    def tags(self, tags: Mapping[str, object]) -> None:
        """Record tags of the run; a later value replaces an earlier one. Secrets are replaced."""
        self._append(tags=_texts(tags))

    def dataset(self, name: str, digest: str, uri: str, context: str) -> None:
        """Record a data set that the run reads, and what for (`training`, `evaluation`)."""
        self._append(dataset={"name": name, "digest": digest, "uri": redact(uri), "context": context})

    def scores(self, step: int, metrics: Mapping[str, float], model: str, name: str, digest: str) -> None:
        """Record scores of the checkpoint whose manifest has the SHA-256 `model`, on the data set `name`, `digest`."""
        self._append(step=step, metrics=dict(metrics), model=model, dataset={"name": name, "digest": digest})

    def artifact(self, path: Path, folder: str = "") -> bool:
        """Record a small file (results, never a checkpoint) for a folder of the run; it is copied at once.

        Returns False, after a warning, if it cannot be read or is too large.
        """
        return self._append_file(path, folder=folder)

    def image(self, path: Path, series: str, step: int) -> bool:
        """Record a PNG of the state after `step` optimiser steps; MLflow shows a series beside the curves."""
        return self._append_file(path, image=series, step=step)

    def close_segment(self) -> list[str]:
        """Make what was written so far immutable and durable; return the names of all closed segments.

        Names are relative to the spool's folder, oldest first: this writer's, and those of earlier attempts, whose
        writers are gone.
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
            attempt = f"attempt-{self.attempt}/"
            names = list_segments(self.folder)
            return [name for name in names if writer_of(name) == self._writer or not name.startswith(attempt)]

    def _append_file(self, path: Path, **fields: object) -> bool:
        place = f"attempt-{self.attempt}/files/{self._writer}-{os.urandom(3).hex()}/{path.name}"
        try:
            if path.stat().st_size > FILE_LIMIT_BYTES:
                raise OSError(f"larger than {FILE_LIMIT_BYTES >> 20} MiB")
            write_atomically(self.folder / place, path.read_bytes())
        except OSError as error:
            _logger.warning("%s is not tracked: %s", path, error)
            return False
        return self._append(file=place, **fields)

    def _append(self, **fields: object) -> bool:
        with self._lock:
            self._last_ts = max(self._last_ts, int(self._clock() * 1000))
            content = {"ts": self._last_ts, "attempt": self.attempt, **fields}
            line = json.dumps(content, separators=(",", ":")).encode() + b"\n"  # floats keep all their bits
            try:
                if os.write(self._descriptor(), line) < len(line):
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


def copy_segments(folder: Path, names: list[str], store: ObjectStore) -> None:
    """Copy closed segments (relative to `folder`) and the files that they name to `RUN/spool/`.

    `store` is rooted at RUN. What is there already is left alone, so it may be called any number of times. A file that
    cannot be read is left out after a warning. Raises what the store raises (StorageError).
    """
    present = {key for key, _ in store.list(STORE_FOLDER)}
    files = sorted(path for path in folder.glob("attempt-*/files/*/*") if not path.name.startswith("."))
    for name in [*(path.relative_to(folder).as_posix() for path in files), *names]:
        if STORE_FOLDER + name not in present:
            try:
                content = (folder / name).read_bytes()
            except OSError as error:
                _logger.warning("%s is not tracked: %s", folder / name, error)
                continue
            if name in names:
                content = content[: content.rfind(b"\n") + 1]  # without the torn line of a killed writer
            put_once(store, STORE_FOLDER + name, content)


def restore_segments(store: ObjectStore, folder: Path) -> None:
    """Fetch from `RUN/spool/` what the local folder lacks.

    Call it before `Spool` is opened on a machine that may not be the one of the last attempt: time stamps
    then go on where they ended, and curves are whole.
    """
    for key, _ in store.list(STORE_FOLDER):
        name = key.removeprefix(STORE_FOLDER)
        if re.match(r"attempt-\d+/", name) and ".." not in name.split("/") and not (folder / name).exists():
            write_atomically(folder / name, store.get(key))


def save_spool(run_dir: Path, store: ObjectStore) -> None:
    """Copy what the spool of `run_dir` holds to `store`, where `finish` finds it in another pod; never raises.

    The writers must have ended.
    """
    folder = run_dir / "spool"
    try:
        copy_segments(folder, list_segments(folder), store)
    except Exception as error:
        _logger.warning("the tracking spool was not copied to %s: %s", store.uri, clean(str(error), 500))


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in redact_values(values).items()}
