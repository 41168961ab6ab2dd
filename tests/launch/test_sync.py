"""`unimrg track sync`: which job it takes, and that it leaves one at work alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.identity import claim_attempt
from unimrg_trainer.checkpoint.lease import acquire
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.sync import sync_run
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.tracking.settings import TerminalStatus


def test_the_run_of_a_job_at_work_elsewhere_is_not_closed(tmp_path: Path, closed: list[TerminalStatus]) -> None:
    job, file = tiny_job(tmp_path)
    store = LocalStore(tmp_path / "run")
    claim_attempt(store, None, 1)
    lease = acquire(store, "another uid", 1)
    with pytest.raises(UserError, match=r"is still training: process .* last heard of 0 s ago") as caught:
        sync_run(job, file, tmp_path / "folder of this machine", StopRequest())
    assert caught.value.exit_code is ExitCode.UNAVAILABLE and "try again in 90 s" in caught.value.remedy
    assert closed == []
    lease.release()
    sync_run(job, file, tmp_path / "folder of this machine", StopRequest())
    assert closed == ["KILLED"]
