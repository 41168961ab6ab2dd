"""Verifies and prunes the checkpoints of a run, as `unimrg ckpt` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import load_job
from unimrg_cli.run_view import is_job_file, open_run
from unimrg_cli.tables import print_deletable
from unimrg_trainer.checkpoint.identity import attempt_numbers
from unimrg_trainer.checkpoint.lease import holder
from unimrg_trainer.checkpoint.reader import CommitReport, inspect_commits, verify_bytes
from unimrg_trainer.checkpoint.retention import Policy, delete, find_deletable
from unimrg_trainer.launch.sync import tracked_job
from unimrg_trainer.local_folders import run_folder
from unimrg_trainer.storage import ObjectStore


def verify(target: str, step: int | None) -> list[CommitReport]:
    """Read every byte of a run's commits, or of one step's, with a progress bar on standard error; return the reports.

    Raises UserError (INPUT_MISSING) where there is no such commit.
    """
    store = open_run(target)
    known = [report for report in inspect_commits(store) if step in (None, report.step)]
    if not known:
        what = "no committed checkpoint" if step is None else f"no committed checkpoint of step {step}"
        raise UserError(f"{store.uri} holds {what}", remedy="see `unimrg ckpt ls`", exit_code=ExitCode.INPUT_MISSING)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(report.bytes for report in known))
        return verify_bytes(store, step, lambda count: bar.advance(task, count))


def damage(reports: list[CommitReport]) -> UserError | None:
    """The error to end with if a commit is damaged."""
    damaged = [str(report.step) for report in reports if report.finding is not None]
    if not damaged:
        return None
    return UserError(
        f"the checkpoint of step {', '.join(damaged)} is damaged",
        remedy="restore its objects; a training that resumes takes the next older one that verifies",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def prune(target: str, keep_last: int | None, keep_every: int | None, *, confirmed: bool, as_json: bool) -> None:
    """Show what retention deletes of a run, as a table or JSON, and delete it if that is `confirmed`.

    What is not given is the job's; where `target` is no job's file, that of the job which the run has tracked. Raises
    UserError without either (INPUT_MISSING), and while a training holds the lease (UNAVAILABLE).
    """
    store = open_run(target)
    if keep_last is None or keep_every is None:
        spec = load_job(Path(target) if is_job_file(target) else _tracked_job(store)).spec.checkpoint
        keep_last, keep_every = keep_last or spec.keep_last, keep_every or spec.keep_every
    if confirmed and (held := holder(store)) is not None:
        raise UserError(
            f"a training is using {store.uri}, and deletes what it does not keep itself: {held}",
            remedy=f"wait for its end; {held.remedy}",
            exit_code=ExitCode.UNAVAILABLE,
        )
    newest_attempt = max(attempt_numbers(store), default=0)
    deletable = find_deletable(store, Policy(keep_last, keep_every), attempt=newest_attempt, verifying=True)
    if as_json:
        shown = [
            {"step": one.step, "why": one.why, "bytes": one.bytes, "folder": one.folder.key if one.folder else None}
            for one in deletable
        ]
        typer.echo(json.dumps({"uri": store.uri, "deleted": confirmed, "checkpoints": shown}, indent=2))
    else:
        print_deletable(store.uri, deletable, deleted=confirmed)
    for one in deletable if confirmed else ():
        delete(store, one)


def _tracked_job(store: ObjectStore) -> Path:
    """The file of the job whose run lies in `store`. Raises UserError if it was not tracked."""
    try:
        return tracked_job(store, run_folder(store.uri))
    except UserError as error:
        raise UserError(
            f"what the job under {store.uri} keeps is not known: {error.message}",
            remedy="give the job's file instead, or both --keep-last and --keep-every",
            exit_code=error.exit_code,
        ) from error
