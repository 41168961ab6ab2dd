"""Stands in for the tracker in tests of the launcher: nothing is uploaded, and runs are closed without MLflow."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from unimrg_trainer.launch import stages
from unimrg_trainer.tracking.settings import TerminalStatus
from unimrg_trainer.tracking.uploader import UploadReport


class NoUploads:
    """In place of the uploader's thread, which would load MLflow; it leaves `remaining` records."""

    remaining = 0

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self) -> None: ...

    def stop(self, timeout: float) -> UploadReport:
        problem = "nobody answers" if self.remaining else ""
        return UploadReport(0, self.remaining, run_id="r", status_set=False, problem=problem)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[TerminalStatus]:
    """The statuses that `finish` closes runs with."""
    statuses: list[TerminalStatus] = []

    def finish(run_dir: Path, store: object, settings: object, status: TerminalStatus, *_: object) -> UploadReport:
        statuses.append(status)
        return UploadReport(sent=1, remaining=0, run_id="r", status_set=True)

    monkeypatch.setattr(stages, "Uploader", NoUploads)
    monkeypatch.setattr(stages, "watch_system", lambda *_: threading.Event())
    monkeypatch.setattr(stages, "finish", finish)
    return statuses
