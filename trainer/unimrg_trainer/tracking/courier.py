"""Carries the spool to the server, one acknowledged chunk at a time; a repeated chunk changes nothing there.

No thread and no waiting in here: `shipper.py` decides when a pass is made and what happens after a failed
one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from unimrg_api.redaction import clean
from unimrg_trainer.tracking.ledger import Ledger, PendingArtifact
from unimrg_trainer.tracking.remote_run import (
    METRICS_PER_BATCH,
    PARAMS_OR_TAGS_PER_BATCH,
    Point,
    RefusedError,
    RemoteRun,
    RunGoneError,
    UnavailableError,
)
from unimrg_trainer.tracking.segments import Line, Record, list_segments, read_lines, read_records, write_json
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings

_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item")


@dataclass
class _Chunk:
    """What is sent before the offsets move."""

    points: list[Point] = field(default_factory=list)
    params: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[PendingArtifact] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    lines: int = 0

    def is_full(self) -> bool:
        return len(self.points) >= METRICS_PER_BATCH or self.lines >= METRICS_PER_BATCH

    def add(self, line: Line) -> None:
        """Take one line in; later tags replace earlier ones of the same name."""
        self.offsets[str(line.segment)] = line.end
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
                        value = math.nan
                    self.points.append(Point(name, value, record["ts"], record["step"]))
            case "params":
                self.params.append((attempt, record["params"]))
            case "tags":
                self.tags.update(record["tags"])
            case "artifact":
                self.artifacts.append(PendingArtifact(record["path"], record["folder"]))
            case "attempt":
                # By this tag readers tell which attempt a point belongs to.
                self.tags[f"unimrg.attempt.{attempt}"] = f"{record['ts']},{record['resume_step']}"
                self.tags["unimrg.attempt"] = str(attempt)
            case "end":
                self.tags[f"unimrg.end.{attempt}"] = f"{record['ts']},{record['reason']}"


class Courier:
    """Sends what the ledger of a spool does not show as acknowledged."""

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        remote: RemoteRun,
        *,
        final_status: TerminalStatus | None = None,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """With `final_status` the run is closed, else re-opened; `may_go_on` is asked before each request."""
        self.folder = run_dir / "spool"
        self.ledger = Ledger(self.folder, settings.server_digest)
        self.shipped = 0
        """Lines of the spool that were acknowledged through this object."""
        self.status_set = False
        self._mlflow_json = run_dir / "mlflow.json"
        self._settings = settings
        self._remote = remote
        self._final_status = final_status
        self._may_go_on = may_go_on
        self._connected = False
        self._refused_names: set[str] = set()

    def ship(self) -> None:
        """Make one pass until nothing is left. Raises UnavailableError when it has to be made again."""
        try:
            chunk = self._next_chunk()
            if not (chunk.lines or self.ledger.pending or (self._final_status and not self.status_set)):
                return
            self._connect()
            chunk = self._next_chunk()
            while chunk.lines:
                self._deliver(chunk)
                chunk = self._next_chunk()
            for artifact in list(self.ledger.pending):
                self._deliver_file(artifact)
        except RunGoneError as error:
            # Its id is no longer known to the server: find or make one, and send everything again.
            self._connected = False
            raise UnavailableError(f"the run is gone: {error}") from error

    def _connect(self) -> None:
        if self._connected:
            return
        self._check()
        times = [record["ts"] for record in read_records(self.folder)]
        now = int(time.time() * 1000)
        run_id = self._remote.connect(self.ledger.run_id, min(times, default=now))
        self.ledger.adopt(run_id)
        write_json(
            self._mlflow_json,
            {"run_id": run_id, "url": self._remote.url, "uri": self._settings.public_uri},
        )
        # The status comes before the points: a run takes points after its end, so that a slow server still
        # leaves the right status.
        if self._final_status is None:
            self._remote.set_running()
        else:
            self._remote.set_terminated(self._final_status, max(times, default=now))
            self.status_set = True
        self._connected = True

    def _next_chunk(self) -> _Chunk:
        chunk = _Chunk()
        for segment in list_segments(self.folder):
            for line in read_lines(self.folder, segment, self.ledger.offsets.get(str(segment), 0)):
                chunk.add(line)
                if chunk.is_full():
                    return chunk
        return chunk

    def _deliver(self, chunk: _Chunk) -> None:
        for text in chunk.unreadable:
            self._reject(text, "unreadable line", "unreadable lines")
        for attempt, params in chunk.params:
            self._send(
                list(params.items()),
                PARAMS_OR_TAGS_PER_BATCH,
                partial(self._send_params, attempt),
                lambda item: f"parameter {item[0]}",
            )
        self._send(chunk.points, METRICS_PER_BATCH, self._remote.log_points, lambda point: f"metric {point.key}")
        self._send(
            list(chunk.tags.items()),
            PARAMS_OR_TAGS_PER_BATCH,
            self._remote.log_tags,
            lambda item: f"tag {item[0]}",
        )
        self.ledger.acknowledge(chunk.offsets, chunk.artifacts)
        self.shipped += chunk.lines

    def _send_params(self, attempt: int, items: Sequence[tuple[str, str]]) -> None:
        self._remote.log_params(attempt, dict(items))

    def _send(
        self,
        items: Sequence[_Item],
        limit: int,
        send: Callable[[Sequence[_Item]], None],
        name: Callable[[_Item], str],
    ) -> None:
        """Send in batches; a refused one is halved until what the server does not like stands alone."""
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
                    self._reject(batch[0], str(error), name(batch[0]))
                else:
                    middle = len(batch) // 2
                    waiting += [batch[middle:], batch[:middle]]

    def _deliver_file(self, artifact: PendingArtifact) -> None:
        path = (self.folder / artifact.path).resolve()
        # Segments may come from a store: nothing outside the spool is sent because a record says so.
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            self._reject(artifact, "the file is missing", f"file {path.name}")
        else:
            self._check()
            try:
                self._remote.log_file(path, artifact.folder)
            except RefusedError as error:
                if not self._remote.is_usable():
                    raise RunGoneError(str(error)) from error
                self._reject(artifact, str(error), f"file {path.name}")
        self.ledger.artifact_done(artifact)

    def _reject(self, item: object, reason: str, name: str) -> None:
        self.ledger.reject(item, clean(reason, 500))
        if name not in self._refused_names:
            self._refused_names.add(name)
            _logger.warning(
                "the tracking server does not take %s, it is kept in %s: %s",
                name,
                self.folder / "rejected.jsonl",
                clean(reason, 500),
            )

    def _check(self) -> None:
        if not self._may_go_on():
            raise UnavailableError("told to stop")
