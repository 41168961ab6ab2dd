"""A tracking server made of lists, for tests of what the uploader does with each kind of answer."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from unimrg_trainer.tracking.errors import RefusedError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import Item, MlflowRun, Point, Tag
from unimrg_trainer.tracking.segments import Record
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.spool import Spool
from unimrg_trainer.tracking.upload import SENT

SETTINGS = TrackingSettings("http://server", "unimrg", "run", "uid-1", 1)


class ListServer(MlflowRun):
    """Takes everything except metric keys with an `@`; its run can be deleted, and it can be made to fail."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.kept: set[Point] = set()
        self.tags: dict[str, str] = {}
        self.batches: list[int] = []
        self.files: list[str] = []
        self.files_fail = False
        self.failure: Exception | None = None
        self.status_failures: Iterator[Exception | None] = itertools.repeat(None)
        self.entered = threading.Event()

    def connect(self, start_ms: int) -> dict[str, str]:
        self._answer()
        self.run_id = "run"
        return dict(self.tags)

    def is_usable(self) -> bool:
        return True

    def latest(self) -> dict[str, tuple[int, float]]:
        ordered = sorted(self.kept, key=lambda point: (point.step, point.timestamp))
        return {point.key: (point.step, point.value) for point in ordered}

    def log(self, items: Sequence[Item]) -> None:
        self._answer()
        self.batches.append(len(items))
        if any("@" in item.key for item in items):
            raise RefusedError("bad name")
        self.kept |= {item for item in items if isinstance(item, Point)}
        self.tags.update(item for item in items if isinstance(item, Tag))

    def log_object(self, record: Record, path: Path | None) -> None:
        self._answer()
        if self.files_fail:
            raise UnavailableError("no artifact store")
        assert path is not None
        self.files.append(f"{record.folder}/{path.name}")

    def set_status(self, status: TerminalStatus | None, end_ms: int) -> None:
        if (failure := next(self.status_failures)) is not None:
            raise failure

    def points(self) -> list[Point]:
        return sorted(self.kept, key=lambda point: (point.key, point.step, point.timestamp))

    def shown_tags(self) -> dict[str, str]:
        return {name: value for name, value in self.tags.items() if not name.startswith(SENT)}

    def _answer(self) -> None:
        self.entered.set()
        if self.failure is not None:
            raise self.failure


def spool_with(run_dir: Path, steps: int, metrics: int = 1) -> Spool:
    spool = Spool(run_dir / "spool", 1)
    for step in range(1, steps + 1):
        spool.step(step, {f"train/metric-{index}": float(step) for index in range(metrics)})
    return spool
