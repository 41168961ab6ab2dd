"""Uploads the spool, one acknowledged chunk at a time; a repeated chunk changes nothing on the server.

One mechanism serves training, `finish`, the next attempt and `unimrg track sync`: two cursors go over the same lines.
The first sends points, parameters and tags in batches; the second, behind it, sends what takes a request of its own
(files, pictures, data sets). Where the artifact store is down the pass fails there, after the points; those that come
later wait for the next pass. Every request may be repeated.

Every point reaches the server once, although a step is run again after a crash and the local disk may be lost: where
the lines of another writer begin, they are compared with the run's history on the server (`segments.new_values`).

No thread and no waiting in here: `uploader.py` decides when a pass is made and what happens after a failed one.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from unimrg_api.redaction import clean
from unimrg_trainer.files import write_atomically
from unimrg_trainer.local_folders import MLFLOW_FILE, mlflow_run
from unimrg_trainer.tracking.errors import RefusedError, RunGoneError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import PARAM_LENGTH, Checkpoint, Item, MlflowRun, Param, Point, Tag
from unimrg_trainer.tracking.segments import SCORES, Line, Record, list_segments, new_values, read_lines, read_records
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.spool import STATE_FILE

_logger = logging.getLogger(__name__)

CHUNK = 1000
"""Lines, and about as many values, between two moves of the first cursor; also the largest batch."""
Cursor = Literal["batches", "objects"]


class UploadState(BaseModel):
    """What one run of one server has acknowledged: bytes of each segment, by cursor. Losing it costs requests only."""

    server: str
    """Digest of the server's URI and the job's uid."""
    run_id: str | None = None
    batches: dict[str, int] = {}
    objects: dict[str, int] = {}


@dataclass
class SpoolUpload:
    """Sends what the upload state of a spool does not show as acknowledged."""

    run_dir: Path
    settings: TrackingSettings
    remote: MlflowRun
    final_status: TerminalStatus | None = None
    """The run is closed with it; None: it is re-opened."""
    checkpoints: Callable[[], list[Checkpoint]] | None = None
    """Lists those that the store keeps."""
    may_continue: Callable[[], bool] = lambda: True
    """Asked before each request."""
    sent: int = field(default=0, init=False)
    """Lines that were acknowledged through this object."""
    status_set: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.folder = self.run_dir / "spool"
        self.state = self._load_state()
        self._connected = self._list_checkpoints = False
        self._writer = ""
        self._history: dict[str, dict[int, float]] = {}
        self._refused_names: set[str] = set()

    def run(self) -> None:
        """Make one pass until nothing is left. Raises UnavailableError when it has to be made again."""
        try:
            if not self._connected:
                # The segments of earlier attempts, and how far they were sent, may have been restored since.
                self.state = self._load_state()
                if not self.remaining() and (self.final_status is None or self.status_set):
                    return
                self._connect()
            while chunk := self._next_chunk():
                self._send_chunk(chunk)
            passed: dict[str, int] = {}
            for line in self._unsent("objects"):
                passed[line.segment] = line.end
                if line.is_object and line.record is not None:
                    self._send_object(line.record)
                    self._acknowledge("objects", passed)
            self._acknowledge("objects", passed)
            if self._list_checkpoints and self.checkpoints is not None:
                self._send_models(self.checkpoints)
            self._list_checkpoints = False
        except RunGoneError as error:
            # The server no longer knows its id: the next pass finds or makes one and sends everything again.
            self._connected = False
            raise UnavailableError(f"the run is gone: {error}") from error

    def remaining(self) -> int:
        """Return how many complete lines the server does not have yet."""
        waiting = [line for line in self._unsent("objects") if line.is_object]
        return len({(line.segment, line.end) for line in [*waiting, *self._unsent("batches")]})

    def publish(self, problem: str | None = None) -> None:
        """Write run id, URL and the present problem to `mlflow.json`, for the progress and the next commit.

        None keeps the problem that is written there: a connection alone does not show that the server takes records.
        """
        known = {"run_id": self.state.run_id or "", "url": self.remote.url, "uri": self.settings.public_uri}
        content = {"problem": "", **mlflow_run(self.run_dir), **{name: text for name, text in known.items() if text}}
        if problem is not None:
            content["problem"] = problem
        with suppress(OSError):  # a full disk
            write_atomically(self.run_dir / MLFLOW_FILE, json.dumps(content))

    def _connect(self) -> None:
        self._check()
        times = [record["ts"] for record in read_records(self.folder)]
        now = int(time.time() * 1000)
        run_id = self.remote.connect(self.state.run_id, min(times, default=now))
        self._check()  # a request that hung may return after another uploader has closed the run
        if run_id != self.state.run_id:  # another run lacks everything
            self.state = UploadState(server=self.state.server, run_id=run_id)
        self._writer = ""
        self.publish()
        # The status comes before the points: a run takes points after its end, so that a slow server still
        # leaves the right status.
        self.remote.set_status(self.final_status, max(times, default=now))
        self.status_set = self.final_status is not None
        self._connected = self._list_checkpoints = True

    def _unsent(self, cursor: Cursor) -> Iterator[Line]:
        for segment in list_segments(self.folder):
            yield from read_lines(self.folder, segment, getattr(self.state, cursor).get(segment, 0))

    def _acknowledge(self, cursor: Cursor, offsets: dict[str, int]) -> None:
        getattr(self.state, cursor).update(offsets)
        if offsets:
            write_atomically(self.folder / STATE_FILE, self.state.model_dump_json())

    def _next_chunk(self) -> list[Line]:
        """Return unsent lines of one writer."""
        chunk: list[Line] = []
        values = 0
        for line in self._unsent("batches"):
            if chunk and (line.writer != chunk[0].writer or len(chunk) >= CHUNK or values >= CHUNK):
                break
            chunk.append(line)
            values += len(line.record["metrics"]) if line.record is not None else 0
        return chunk

    def _send_chunk(self, chunk: list[Line]) -> None:
        if chunk[0].writer != self._writer:
            self._writer, self._history = chunk[0].writer, {}
        records = [line.record for line in chunk if line.record is not None]
        first_step = min((record["step"] for record in records if record["metrics"]), default=0)
        points: list[Item] = []
        params = dict(self.remote.params)
        tags: dict[str, str] = {}  # a later value replaces an earlier one
        for record in records:
            points += self._new_points(record, first_step, tags)
            for name, text in record["params"].items():
                value = text[:PARAM_LENGTH]
                if (old := params.setdefault(name, value)) != value:  # a parameter never changes
                    tags[f"param_change.{record['attempt']}.{name}"] = f"{old[:1000]} → {value[:1000]}"
            tags |= record["tags"]
        new = [Param(*item) for item in params.items() if item[0] not in self.remote.params]
        self._send([*new, *points, *(Tag(*item) for item in tags.items())])
        self.remote.params = params
        for line in chunk:
            if line.record is None:
                self._reject(line.text[:1000], "unreadable line", "unreadable lines")
        self._list_checkpoints |= any(name.startswith("ckpt/") for record in records for name in record["metrics"])
        self._acknowledge("batches", {line.segment: line.end for line in chunk})
        self.sent += len(chunk)

    def _new_points(self, record: Record, first_step: int, tags: dict[str, str]) -> list[Item]:
        """Return the points of a record that the run lacked when this writer's lines began."""
        step, values, known = record["step"] if record["metrics"] else 0, record["metrics"], {}
        for name, value in values.items():
            if math.isinf(value):  # the server would store ±1.8e308, which flattens every chart
                tags[f"unimrg.nonfinite.{name}"] = f"{value} at step {step}, attempt {record['attempt']}"
                values[name] = math.nan
            if name not in self._history:
                self._check()
                self._history[name] = self.remote.history(name, first_step)
            if step in self._history[name]:
                known[name] = self._history[name][step]
        new = new_values(values, known)
        for name in new:
            if name.startswith(SCORES):  # one writer may repeat them, and they are few, unlike the values of training
                self._history[name][step] = new[name]
        return [Point(name, value, record["ts"], step) for name, value in new.items()]

    def _send(self, items: Sequence[Item]) -> None:
        """Send in batches; a refused one is halved until the item that the server does not like stands alone."""
        waiting = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)][::-1]
        while waiting:
            batch = waiting.pop()
            if (refusal := self._refusal(partial(self.remote.log, batch))) is None:
                continue
            if len(batch) == 1:
                self._reject(batch[0], refusal, f"{type(batch[0]).__name__.lower()} {batch[0].key}")
            else:
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]

    def _send_object(self, record: Record) -> None:
        path = None
        if "file" in record:
            path = (self.folder / record["file"]).resolve()
            # Segments may come from a store: nothing outside the spool is sent because a record says so.
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
                self._reject(record, "the file is missing", f"file {path.name}")
                return
        if (refusal := self._refusal(partial(self.remote.log_object, record, path))) is not None:
            self._reject(record, refusal, f"file {path.name}" if path is not None else "the data set")

    def _send_models(self, checkpoints: Callable[[], list[Checkpoint]]) -> None:
        try:
            kept = checkpoints()
        except Exception as error:  # the store's, and no reason to hold up what comes next
            _logger.warning("the checkpoints are not listed for MLflow: %s", clean(str(error), 500))
            return
        if (refusal := self._refusal(partial(self.remote.keep_models, kept))) is not None:
            self._reject(kept, refusal, "the models of checkpoints")

    def _refusal(self, request: Callable[[], None]) -> str | None:
        """Make a request; return why the server will never take it, None if it did."""
        self._check()
        try:
            request()
        except RefusedError as error:
            if not self.remote.is_usable():  # a deleted run refuses everything: that says nothing about the request
                raise RunGoneError(str(error)) from error
            return str(error)
        return None

    def _reject(self, item: object, reason: str, name: str) -> None:
        file = self.folder / "rejected.jsonl"
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"reason": clean(reason, 500), "item": str(item)}) + "\n")
        if name not in self._refused_names:
            self._refused_names.add(name)
            _logger.warning("the tracking server refuses %s; it is kept in %s: %s", name, file, clean(reason, 500))

    def _check(self) -> None:
        if not self.may_continue():
            raise UnavailableError("stopped before everything was sent")

    def _load_state(self) -> UploadState:
        """Return the spool's upload state; an empty one if it is missing, damaged or another server's."""
        empty = UploadState(server=self.settings.server_digest)
        try:
            state = UploadState.model_validate_json((self.folder / STATE_FILE).read_bytes())
        except (OSError, ValueError):
            return empty
        return state if state.server == empty.server else empty
