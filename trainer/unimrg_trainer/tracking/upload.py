"""Uploads the spool, one acknowledged chunk at a time; a repeated chunk changes nothing on the server.

No thread and no waiting in here: `uploader.py` decides when a pass is made and what happens after a failed one.

Every point reaches the server once, although the local disk may be lost: what this spool has recorded after the last
state that was kept is compared with the run's history on the server, by the rule that the spool itself uses for a
step that is run again (`segments.new_values`).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from unimrg_api.redaction import clean
from unimrg_trainer.files import write_atomically
from unimrg_trainer.local_folders import MLFLOW_FILE
from unimrg_trainer.tracking.errors import RefusedError, RunGoneError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import METRICS_PER_BATCH, PARAMS_OR_TAGS_PER_BATCH, MlflowRun, Point
from unimrg_trainer.tracking.segments import Line, Record, list_segments, new_values, read_lines, read_records
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.upload_state import UploadState

_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item", bound=tuple[Any, ...])


@dataclass
class _Chunk:
    """What is sent before the offsets move."""

    steps: list[Record] = field(default_factory=list)
    params: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    values: int = 0

    def is_full(self) -> bool:
        return self.values >= METRICS_PER_BATCH or self.lines >= METRICS_PER_BATCH

    def add(self, line: Line) -> None:
        """Add one line; later tags replace earlier ones of the same name."""
        self.offsets[line.segment] = line.end
        self.lines += 1
        if line.record is None:
            self.unreadable.append(line.text[:1000])
        else:
            self._add_record(line.record)

    def _add_record(self, record: Record) -> None:
        attempt = record["attempt"]
        match record["op"]:
            case "step":
                for name, value in record["metrics"].items():
                    if math.isinf(value):
                        # The server would store ±1.8e308, which flattens every chart.
                        self.tags[f"unimrg.nonfinite.{name}"] = f"{value} at step {record['step']}, attempt {attempt}"
                        record["metrics"][name] = math.nan
                self.steps.append(record)
                self.values += len(record["metrics"])
            case "params":
                self.params.append((attempt, record["params"]))
            case "tags":
                self.tags.update(record["tags"])
            case "artifact":
                self.artifacts.append((record["path"], record["folder"]))
            case "attempt":
                # By this tag readers tell which attempt a point belongs to.
                self.tags[f"unimrg.attempt.{attempt}"] = f"{record['ts']},{record['resume_step']}"
                self.tags["unimrg.attempt"] = str(attempt)
            case "end":
                self.tags[f"unimrg.end.{attempt}"] = f"{record['ts']},{record['reason']}"


class SpoolUpload:
    """Sends what the upload state of a spool does not show as acknowledged."""

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        remote: MlflowRun,
        *,
        final_status: TerminalStatus | None = None,
        may_continue: Callable[[], bool] = lambda: True,
    ) -> None:
        """With `final_status` the run is closed, else re-opened; `may_continue` is asked before each request."""
        self.folder = run_dir / "spool"
        self.state = UploadState.load(self.folder, settings.server_digest)
        self.sent = 0
        """Lines of the spool that were acknowledged through this object."""
        self.status_set = False
        self._mlflow_json = run_dir / MLFLOW_FILE
        self._settings = settings
        self._remote = remote
        self._final_status = final_status
        self._may_continue = may_continue
        self._connected = False
        self._first_step = 0
        self._history: dict[str, dict[int, float]] = {}
        self._refused_names: set[str] = set()

    def run(self) -> None:
        """Make one pass until nothing is left. Raises UnavailableError when it has to be made again."""
        try:
            if not self._connected:
                # The segments of earlier attempts, and how far they were sent, may have been restored since.
                self.state = UploadState.load(self.folder, self._settings.server_digest)
            chunk = self._next_chunk()
            if not (chunk.lines or self.state.artifacts or (self._final_status and not self.status_set)):
                return
            if not self._connected:
                self._connect()
                chunk = self._next_chunk()
            while chunk.lines:
                self._deliver(chunk)
                chunk = self._next_chunk()
            for artifact in list(self.state.artifacts):
                self._deliver_file(artifact)
        except RunGoneError as error:
            # The server no longer knows its id: the next pass finds or makes one and sends everything again.
            self._connected = False
            raise UnavailableError(f"the run is gone: {error}") from error

    def remaining(self) -> int:
        """Return how many complete lines and files the server does not have yet."""
        return sum(1 for _ in self._unsent()) + len(self.state.artifacts)

    def _connect(self) -> None:
        self._check()
        times = [record["ts"] for record in read_records(self.folder)]
        now = int(time.time() * 1000)
        run_id = self._remote.connect(self.state.run_id, min(times, default=now))
        self._check()  # a request that hung may return after another uploader has closed the run
        if run_id != self.state.run_id:  # another run lacks everything
            self.state = UploadState(server=self.state.server, run_id=run_id)
            self.state.save(self.folder)
        self._history = {}
        unsent = [line.record for line in self._unsent() if line.record is not None]
        steps = [record.get("step", record.get("resume_step")) for record in unsent]
        self._first_step = min((step for step in steps if step is not None), default=0)
        content = {"run_id": run_id, "url": self._remote.url, "uri": self._settings.public_uri}
        write_atomically(self._mlflow_json, json.dumps(content))
        # The status comes before the points: a run takes points after its end, so that a slow server still
        # leaves the right status.
        self._remote.set_status(self._final_status, max(times, default=now))
        self.status_set = self._final_status is not None
        self._connected = True

    def _unsent(self) -> Iterator[Line]:
        for segment in list_segments(self.folder):
            yield from read_lines(self.folder, segment, self.state.segments.get(segment, 0))

    def _next_chunk(self) -> _Chunk:
        chunk = _Chunk()
        for line in self._unsent():
            chunk.add(line)
            if chunk.is_full():
                break
        return chunk

    def _deliver(self, chunk: _Chunk) -> None:
        for text in chunk.unreadable:
            self._reject(text, "unreadable line", "unreadable lines")
        for attempt, params in chunk.params:
            send = partial(self._remote.log_params, attempt)
            self._send("parameter", list(params.items()), PARAMS_OR_TAGS_PER_BATCH, send)
        points = [point for record in chunk.steps for point in self._new_points(record)]
        self._send("metric", points, METRICS_PER_BATCH, self._remote.log_points)
        self._send("tag", list(chunk.tags.items()), PARAMS_OR_TAGS_PER_BATCH, self._remote.log_tags)
        self.state.segments.update(chunk.offsets)
        self.state.artifacts += [artifact for artifact in chunk.artifacts if artifact not in self.state.artifacts]
        self.state.save(self.folder)
        self.sent += chunk.lines

    def _new_points(self, record: Record) -> list[Point]:
        """Return the points of a step that the run did not have when it was connected to."""
        step, known = record["step"], {}
        for key in record["metrics"]:
            if key not in self._history:
                self._check()
                self._history[key] = self._remote.history(key, self._first_step)
            if step in self._history[key]:
                known[key] = self._history[key][step]
        return [Point(key, value, record["ts"], step) for key, value in new_values(record["metrics"], known).items()]

    def _send(self, kind: str, items: Sequence[_Item], limit: int, send: Callable[[Sequence[_Item]], None]) -> None:
        """Send in batches; a refused one is halved until what the server does not like, `kind NAME`, stands alone."""
        waiting = [items[start : start + limit] for start in range(0, len(items), limit)][::-1]
        run_checked = False
        while waiting:
            batch = waiting.pop()
            self._check()
            try:
                send(batch)
            except RefusedError as error:
                # A deleted run refuses everything: that says nothing about the items.
                if not run_checked and not self._remote.is_usable():
                    raise RunGoneError(str(error)) from error
                run_checked = True
                if len(batch) == 1:
                    self._reject(batch[0], str(error), f"{kind} {batch[0][0]}")
                else:
                    middle = len(batch) // 2
                    waiting += [batch[middle:], batch[:middle]]

    def _deliver_file(self, artifact: tuple[str, str]) -> None:
        path = (self.folder / artifact[0]).resolve()
        # Segments may come from a store: nothing outside the spool is sent because a record says so.
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            self._reject(artifact, "the file is missing", f"file {path.name}")
        else:
            self._send("file", [(path.name,)], 1, lambda _: self._remote.log_file(str(path), artifact[1]))
        self.state.artifacts.remove(artifact)
        self.state.save(self.folder)

    def _reject(self, item: object, reason: str, name: str) -> None:
        file = self.folder / "rejected.jsonl"
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"reason": clean(reason, 500), "item": str(item)}) + "\n")
        if name not in self._refused_names:
            self._refused_names.add(name)
            _logger.warning("the tracking server refuses %s; it is kept in %s: %s", name, file, clean(reason, 500))

    def _check(self) -> None:
        if not self._may_continue():
            raise UnavailableError("stopped before everything was sent")
