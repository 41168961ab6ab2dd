"""`unimrg track sync`: sends MLflow what it lacks of a run that nothing works on any more, and closes the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_trainer import job_stores
from unimrg_trainer.checkpoint.lease import holder
from unimrg_trainer.launch import inputs
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.local import display_uri, local_environment
from unimrg_trainer.launch.lock import run_lock
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import finish_run
from unimrg_trainer.local_folders import JOB_FILE, claim_folder, mlflow_run, provide_home
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.tracking.spool import restore_segments

SYNC_SECONDS = 3600.0
"""Limit for one command; it may be repeated and goes on where it ended."""
ABSENT_SERVER_SECONDS = 10.0
"""Limit where a first check found that the server accepts nothing: the command then says why and ends."""


def tracked_job(store: ObjectStore, run_dir: Path) -> Path:
    """Return the file of the job whose run lies in `store`: that of its spool's last attempt, fetched into `run_dir`.

    Raises UserError (INPUT_MISSING) if there is none.
    """
    restore_segments(store, run_dir / "spool")
    files = list(run_dir.glob(f"spool/attempt-*/files/*/{JOB_FILE}"))
    if not files:
        raise UserError(
            f"nothing was tracked under {store.uri}",
            remedy="give the job's file instead, or correct the URI",
            exit_code=ExitCode.INPUT_MISSING,
        )
    # What was fetched has the times of its arrival, so those tell starts of one attempt apart at most.
    return max(files, key=lambda path: (int(path.parents[2].name.removeprefix("attempt-")), path.stat().st_mtime))


def sync_run(job: UniMRGJob, job_file: Path, run_dir: Path | None, stop: StopRequest) -> tuple[ExitResult, str]:
    """Send what the spools in `run_dir` and in the job's store still hold, and close the run as what it came to.

    Returns how that ended, and the run's address (its id where it has none). `run_dir` is this machine's folder of the
    run unless given. May be repeated. Raises UserError if a process of this machine works on the run, or a training
    anywhere holds its lease: closing would show it as KILLED.
    """
    env = local_environment(job, job_file, None)
    env = dataclasses.replace(env, run_dir=run_dir or env.run_dir)
    provide_home()
    run_store = job_stores.run_store(job, env)
    with run_lock(env.run_dir, display_uri(run_store.uri)):
        if (held := holder(run_store)) is not None:
            raise UserError(
                f"the job under {run_store.uri} is still training: {held}",
                remedy=f"its own end closes its MLflow run; {held.remedy}",
                exit_code=ExitCode.UNAVAILABLE,
            )
        found = inputs.find_run(env, job, run_store)
        if found is not None:
            claim_folder(found.run_dir, found.uid)
        limit = SYNC_SECONDS if inputs.tracking_problem(job, env) is None else ABSENT_SERVER_SECONDS
        result = finish_run(found or env, job, run_store, stop, limit)
        known = mlflow_run(env.run_dir)
    return result, known.get("url") or known.get("run_id", "")
