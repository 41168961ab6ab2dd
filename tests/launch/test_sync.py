"""`unimrg track sync`: which job it takes, and that it leaves one at work alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from tests.support.ports import free_port
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.identity import claim_attempt
from unimrg_trainer.checkpoint.lease import acquire
from unimrg_trainer.launch import sync
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.sync import sync_run, tracked_job
from unimrg_trainer.local_folders import JOB_FILE
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.tracking.settings import TerminalStatus
from unimrg_trainer.tracking.spool import Spool, save_spool


def test_the_run_of_a_job_at_work_elsewhere_is_not_closed(tmp_path: Path, closed: list[TerminalStatus]) -> None:
    job, file = tiny_job(tmp_path)
    store = LocalStore(tmp_path / "run")
    claim_attempt(store, None, 1)
    lease = acquire(store, "another uid", 1)
    with pytest.raises(UserError, match=r"is still training: process .* renewed 0 s ago") as caught:
        sync_run(job, file, tmp_path / "folder of this machine", StopRequest())
    assert caught.value.exit_code is ExitCode.UNAVAILABLE and "try again in 90 s" in caught.value.remedy
    assert closed == []
    lease.release()
    sync_run(job, file, tmp_path / "folder of this machine", StopRequest())
    assert closed == ["KILLED"]


def test_the_job_of_the_last_attempt_is_taken_in_whatever_order_they_arrive(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    for attempt in (2, 10, 9):
        (tmp_path / JOB_FILE).write_text(f"job of attempt {attempt}")
        Spool(tmp_path / "pod" / "spool", attempt).artifact(tmp_path / JOB_FILE, "job")
    save_spool(tmp_path / "pod", store)
    assert tracked_job(store, tmp_path / "here").read_text() == "job of attempt 10"


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    job, file = tiny_job(tmp_path, tracking={"mlflow": {"uri": uri}})
    claim_attempt(LocalStore(tmp_path / "run"), None, 1)
    monkeypatch.setattr(sync, "ABSENT_SERVER_SECONDS", 1.0)
    result, _ = sync_run(job, file, tmp_path / "folder of this machine", StopRequest())
    assert result.code is ExitCode.UNAVAILABLE
    assert uri in result.message and "within 1 s; `unimrg track sync` sends them" in result.message
