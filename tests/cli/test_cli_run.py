"""`unimrg run`: what it passes to the launcher, and the error where training is not installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Unimrg, piped
from tests.support.good_jobs import GOOD_JOB
from unimrg_cli import extras


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD_JOB)
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the launcher: keeps what it is called with, and ends with 85."""
    kept: list[Any] = []

    def run_job(job: Any, file: Path, processes: int | None, *, stop: Any) -> int:
        assert not stop.requested
        kept.append((job.metadata.name, file, processes))
        return 85

    monkeypatch.setitem(sys.modules, "unimrg_trainer.launch.local", types.SimpleNamespace(run_job=run_job))
    return kept


def test_the_launcher_gets_job_file_and_processes_and_its_code_is_ours(
    unimrg: Unimrg, job_file: Path, calls: list[Any]
) -> None:
    assert unimrg("run", job_file, "--processes", 2).code == 85
    assert unimrg("run", job_file).code == 85
    assert calls == [("good", job_file, 2), ("good", job_file, None)]


def test_paths_of_a_job_from_a_pipe_count_from_the_working_folder(
    unimrg: Unimrg, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with piped(GOOD_JOB) as pipe:
        assert unimrg("run", pipe).code == 85
    ((_, file, _),) = calls
    assert file.resolve().parent == tmp_path


def test_a_bad_job_never_reaches_the_launcher(unimrg: Unimrg, job_file: Path, calls: list[Any]) -> None:
    job_file.write_text(GOOD_JOB.replace("nodes: 1", "nodes: 0"))
    assert unimrg("run", job_file).code == 64
    assert calls == []


def test_without_the_trainer_extra_the_command_that_installs_it_is_shown(
    unimrg: Unimrg, job_file: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda name: name not in ("torch", "mlflow"))
    ended = unimrg("run", job_file)
    ended.refused(64, "not installed: mlflow, torch", 'pip install "unimrg[trainer]"')
    assert "Traceback" not in ended.err
    assert calls == []
