"""`unimrg track sync`: finds the job of a run that may be known by its folder or URI only."""

from __future__ import annotations

from pathlib import Path

import typer

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.load import load_job
from unimrg_cli.check import stands_at
from unimrg_cli.run_view import is_job_file, open_run
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.sync import sync_run, tracked_job
from unimrg_trainer.local_folders import JOB_FILE, run_folder


def sync(target: str, tracking_uri: str | None) -> ExitCode:
    """Send what MLflow lacks of the run that `target` names, say what was done, and return how that ended."""
    path = Path(target)
    if is_job_file(target):
        job, file, run_dir = load_job(path), stands_at(path), None
    elif (path / JOB_FILE).is_file() and (path / "spool").is_dir():  # a launcher's own folder, saved from a machine
        job, file, run_dir = load_job(path / JOB_FILE), (path / JOB_FILE).resolve(), path.resolve()
    else:
        store = open_run(target)
        file, run_dir = tracked_job(store, run_folder(store.uri)), None
        job = _at(load_job(file), store.uri)
    if tracking_uri is not None:
        job = _tracked_at(job, tracking_uri)
    elif run_dir is None and not is_job_file(target) and _is_relative(job.spec.tracking.mlflow.uri):
        raise UserError(
            f"the job's spec.tracking.mlflow.uri, {job.spec.tracking.mlflow.uri}, counts from the folder of its file",
            remedy="give the job's file, or --tracking-uri",
        )
    hint = "Sending what MLflow lacks; this may take up to an hour. Ctrl-C ends it without loss."
    typer.echo(hint, err=True)
    with StopRequest().installed() as stop:
        result, run = sync_run(job, file, run_dir, stop)
    typer.echo(f"{result.message}{f': {run}' if run and result.code is ExitCode.OK else ''}")
    return result.code


def _at(job: UniMRGJob, uri: str) -> UniMRGJob:
    """The job with its checkpoints where they were found: a relative URI counted from a folder that is not known."""
    checkpoint = job.spec.checkpoint.model_copy(update={"uri": uri})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"checkpoint": checkpoint})})


def _tracked_at(job: UniMRGJob, uri: str) -> UniMRGJob:
    tracking = job.spec.tracking.model_copy(update={"mlflow": job.spec.tracking.mlflow.model_copy(update={"uri": uri})})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"tracking": tracking})})


def _is_relative(uri: str | None) -> bool:
    return uri is not None and uri.startswith("sqlite") and not uri.partition(":///")[2].startswith("/")
