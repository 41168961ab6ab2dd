"""Uploads the spool, one acknowledged chunk at a time; a repeated chunk changes nothing on the server.

One mechanism serves training, `finish`, the next attempt and `unimrg track sync`: two cursors go over the same lines.
The first sends points, parameters and tags in batches; the second, behind it, sends what takes a request of its own
(files, pictures, data sets, scores of a model). Where the artifact store is down the pass fails there, after the
points; those that come later wait for the next pass. Every request may be repeated. How far each writer's lines were
sent is kept in tags of the run, which come with the batch: so whoever goes on, wherever, asks the server.

Every metric has each step once, although a step is run again after a crash and the local disk may be lost: of a
writer's lines only what is beyond the last step that the run had when they began is sent.

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

from unimrg_api.redaction import clean
from unimrg_trainer.files import write_atomically
from unimrg_trainer.local_folders import MLFLOW_FILE, mlflow_run
from unimrg_trainer.tracking.errors import RefusedError, RunGoneError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import PARAM_LENGTH, Checkpoint, Item, MlflowRun, Param, Point, Tag
from unimrg_trainer.tracking.segments import SCORES, Line, Record, list_segments, read_lines, read_records, writer_of
from unimrg_trainer.tracking.settings import TerminalStatus

_logger = logging.getLogger(__name__)

CHUNK = 1000
"""Lines, and about as many values, between two moves of the first cursor; also the largest batch."""
SENT = "mlflow.unimrg.sent."
"""Tags that say how far a cursor is in a writer's lines; MLflow's pages do not show tags that begin so."""
Cursor = Literal["batches", "objects"]


@dataclass
class SpoolUpload:
    """Sends what the run lacks of a spool."""

    run_dir: Path
    remote: MlflowRun
    final_status: TerminalStatus | None = None
    """The run is closed with it; None: it is re-opened."""
    checkpoints: Callable[[], list[Checkpoint]] | None = None
    """Lists those that the store keeps."""
    raise_if_stopped: Callable[[], None] = lambda: None
    """Called before each request; raises UnavailableError if none is to be made any more."""
    sent: int = field(default=0, init=False)
    """Lines that were acknowledged through this object."""
    status_set: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.folder = self.run_dir / "spool"
        self._connected = self._list_checkpoints = False
        self._places: dict[str, tuple[str, int]] = {}
        """Name of a cursor's tag → segment, and offset behind its last line that was sent."""
        self._latest: dict[str, dict[str, tuple[int, float]]] = {}
        """Writer → what the run had of each metric when the writer's lines began, and has of them since."""
        self._refused: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Make one pass until nothing is left. Raises UnavailableError when it has to be made again."""
        try:
            if not self._connected:
                if not list_segments(self.folder) and self.final_status is None:
                    return
                self._connect()
            while chunk := self._next_chunk():
                self._send_chunk(chunk)
            if self._list_checkpoints and self.checkpoints is not None:
                self._send_models(self.checkpoints)
            self._list_checkpoints = False
            for line in self._unsent("objects"):
                if line.record is not None and line.record.is_object:
                    self._send_object(line.record)
                    self._send([self._move("objects", line)])
                self._places[_tag("objects", line.segment)] = line.segment, line.end
        except RunGoneError as error:
            # The server no longer knows its id: the next pass finds or makes one and sends everything again.
            self._connected = False
            raise UnavailableError(f"the run is gone: {error}") from error

    def remaining(self) -> int:
        """Return how many complete lines the server does not have yet; all, if it could not be asked."""
        waiting = [line for line in self._unsent("objects") if line.record is not None and line.record.is_object]
        return len({(line.segment, line.end) for line in [*waiting, *self._unsent("batches")]})

    def publish(self, problem: str | None = None) -> None:
        """Write run id, URL and the present problem to `mlflow.json`, for the progress and the next commit.

        None keeps the problem that is written there: a connection alone does not show that the server takes records.
        """
        known = {"run_id": self.remote.run_id, "url": self.remote.url, "uri": self.remote.settings.public_uri}
        content = {"problem": "", **mlflow_run(self.run_dir), **{name: text for name, text in known.items() if text}}
        if problem is not None:
            content["problem"] = problem
        with suppress(OSError):  # a full disk
            write_atomically(self.run_dir / MLFLOW_FILE, json.dumps(content))

    def _connect(self) -> None:
        self.raise_if_stopped()
        times = [record.ts for record in read_records(self.folder)]
        now = int(time.time() * 1000)
        tags = self.remote.connect(min(times, default=now))
        self.raise_if_stopped()  # a request that hung may return after another uploader has closed the run
        places = {name: text.rpartition(":") for name, text in tags.items() if name.startswith(SENT)}
        self._places = {name: (place[0], int(place[2])) for name, place in places.items() if place[2].isdecimal()}
        self._latest = {}
        self.publish()
        # The status comes before the points: a run takes points after its end, so that a slow server still
        # leaves the right status.
        self.remote.set_status(self.final_status, max(times, default=now))
        self.status_set = self.final_status is not None
        self._connected = self._list_checkpoints = True

    def _unsent(self, cursor: Cursor) -> Iterator[Line]:
        for segment in list_segments(self.folder):
            last, offset = self._places.get(_tag(cursor, segment), ("", 0))
            if segment >= last:  # of one writer, hence of one attempt
                yield from read_lines(self.folder, segment, offset if segment == last else 0)

    def _move(self, cursor: Cursor, line: Line) -> Tag:
        return Tag(_tag(cursor, line.segment), f"{line.segment}:{line.end}")

    def _next_chunk(self) -> list[Line]:
        """Return unsent lines of one writer."""
        chunk: list[Line] = []
        values = 0
        for line in self._unsent("batches"):
            if chunk and (
                writer_of(line.segment) != writer_of(chunk[0].segment) or len(chunk) >= CHUNK or values >= CHUNK
            ):
                break
            chunk.append(line)
            values += len(line.record.metrics) if line.record is not None else 0
        return chunk

    def _send_chunk(self, chunk: list[Line]) -> None:
        last = chunk[-1]
        records = [line.record for line in chunk if line.record is not None]
        if len(records) < len(chunk):
            _logger.warning("%s has %d unreadable lines", last.segment, len(chunk) - len(records))
        latest = dict(self._latest_of(writer_of(chunk[0].segment)))
        points: list[Item] = []
        params = dict(self.remote.params)
        tags: dict[str, str] = {}  # a later value replaces an earlier one
        for record in records:
            for name, value in record.metrics.items():
                step, before = latest.get(name, (-1, 0.0))
                if record.step > step or (name.startswith(SCORES) and (record.step, value) != (step, before)):
                    latest[name] = record.step, value
                    if math.isinf(value):  # the server would store ±1.8e308, which flattens every chart
                        tags[f"unimrg.nonfinite.{name}"] = f"{value} at step {record.step}, attempt {record.attempt}"
                    points.append(Point(name, math.nan if math.isinf(value) else value, record.ts, record.step))
            for name, whole in record.params.items():
                text = whole[:PARAM_LENGTH]
                if (old := params.setdefault(name, text)) != text:  # a parameter never changes
                    tags[f"param_change.{record.attempt}.{name}"] = f"{old[:1000]} → {text[:1000]}"
            tags |= record.tags
        new = [Param(*item) for item in params.items() if item[0] not in self.remote.params]
        self._send([*new, *points, *(Tag(*item) for item in tags.items()), self._move("batches", last)])
        self.remote.params = params
        self._latest[writer_of(last.segment)] = latest  # not before the points are there
        self._list_checkpoints |= any(name.startswith("ckpt/") for record in records for name in record.metrics)
        self._places[_tag("batches", last.segment)] = last.segment, last.end
        self.sent += len(chunk)

    def _send(self, items: Sequence[Item]) -> None:
        """Send in batches; where one is refused, each of its items alone. What was refused once is not sent again."""
        items = [item for item in items if (type(item).__name__, item.key) not in self._refused]
        for start in range(0, len(items), CHUNK):
            batch = items[start : start + CHUNK]
            if self._refusal(partial(self.remote.log, batch)) is None:
                continue
            for item in batch:
                if (refusal := self._refusal(partial(self.remote.log, [item]))) is not None:
                    self._refused.add((type(item).__name__, item.key))
                    _warn(f"{type(item).__name__.lower()} {item.key}", refusal)

    def _send_object(self, record: Record) -> None:
        path = None
        if record.file is not None:
            path = (self.folder / record.file).resolve()
            # Segments may come from a store: nothing outside the spool is sent because a record says so.
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
                _logger.warning("the file %s is missing in the spool", path.name)
                return
        if (refusal := self._refusal(partial(self.remote.log_object, record, path))) is not None:
            _warn(f"the file {path.name}" if path is not None else "the data set", refusal)

    def _send_models(self, checkpoints: Callable[[], list[Checkpoint]]) -> None:
        try:
            kept = checkpoints()
        except Exception as error:  # the store's, and no reason to hold up what comes next
            _logger.warning("the checkpoints are not listed for MLflow: %s", clean(str(error), 500))
            return
        if (refusal := self._refusal(partial(self.remote.keep_models, kept))) is not None:
            _warn("the models of checkpoints", refusal)

    def _refusal(self, request: Callable[[], None]) -> str | None:
        """Make a request; return why the server will never take it, None if it did."""
        self.raise_if_stopped()
        try:
            request()
        except RefusedError as error:
            if not self.remote.is_usable():  # a deleted run refuses everything: that says nothing about the request
                raise RunGoneError(str(error)) from error
            return str(error)
        return None

    def _latest_of(self, writer: str) -> dict[str, tuple[int, float]]:
        if writer not in self._latest:
            self.raise_if_stopped()
            self._latest[writer] = self.remote.latest()
        return self._latest[writer]


def _warn(name: str, reason: str) -> None:
    _logger.warning("the tracking server refuses %s, which the spool keeps: %s", name, clean(reason, 500))


def _tag(cursor: Cursor, segment: str) -> str:
    return f"{SENT}{cursor}.{writer_of(segment)}"
