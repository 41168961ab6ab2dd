"""Turns the description of a job on a cluster into tables for a terminal."""

from __future__ import annotations

import time
from datetime import datetime

from rich.table import Table

from unimrg_api.status import JobStatus, StageStatus
from unimrg_api.texts import duration
from unimrg_cli.cluster_view import (
    AT_WORK,
    NOT_TAKEN_UP,
    ClusterJob,
    notable,
    one_line,
    restarts_text,
    short_number,
    stage_end,
    steps_text,
)
from unimrg_cli.tables import print_rows, terminal


def print_cluster_job(job: ClusterJob, now: float | None = None) -> None:
    """Print where a job on a cluster stands; `now` is Unix time in seconds."""
    console = terminal()
    print_rows(console, _rows(job, time.time() if now is None else now))
    stages = job.status.stages if job.status is not None else []
    if stages:
        console.print()
        console.print(_stages(stages), markup=False, highlight=False)


def _rows(job: ClusterJob, now: float) -> list[tuple[str, str]]:
    rows = [("job", f"{job.name} in namespace {job.namespace}"), ("run", job.checkpoint_uri)]
    status = job.status
    if status is None:
        remedy = f"is unimrg-operator running, and does it watch the namespace {job.namespace}?"
        return [*rows, ("phase", f"Pending: {NOT_TAKEN_UP} ({remedy})")]
    reason = f" ({status.reason})" if status.reason and status.reason != status.phase else ""
    rows.append(("phase", f"{status.phase}{reason}{', being deleted' if job.deleting else ''}"))
    rows += [(condition.type, _condition(condition.status, condition.reason, condition.message))
             for condition in notable(status)]  # fmt: skip
    rows += _progress(status, now)
    if status.checkpoint is not None:
        rows.append(("checkpoint", f"step {status.checkpoint.step}, {status.checkpoint.uri}"))
    rows += [(score.name, short_number(score.value)) for score in status.benchmarks]
    if status.mlflow is not None and (status.mlflow.url or status.mlflow.run_id):
        rows.append(("MLflow", status.mlflow.url or f"run {status.mlflow.run_id}"))
    return rows


def _condition(status: str, reason: str, message: str) -> str:
    text = reason if status == "True" else f"{'not known' if status == 'Unknown' else 'no'}, {reason}"
    return f"{text}: {one_line(message)}" if message else text


def _progress(status: JobStatus, now: float) -> list[tuple[str, str]]:
    progress = status.progress
    if progress is None:
        return []
    rows = [("progress", steps_text(progress))]
    if progress.losses:
        rows.append(("losses", "  ".join(f"{loss.name} {loss.value}" for loss in progress.losses)))
    if status.phase not in AT_WORK:
        return rows
    if progress.eta:
        rows.append(("left", progress.eta))
    if progress.samples_per_second is not None:
        rows.append(("rows/s", progress.samples_per_second))
    if progress.updated_time is not None:
        reported = datetime.fromisoformat(progress.updated_time).timestamp()
        rows.append(("reported", f"{duration(now - reported)} ago"))
    return rows


def _stages(stages: list[StageStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("STAGE", "STATE", "ATTEMPT", "RESTARTS", "END"):
        table.add_column(name, overflow="fold", no_wrap=name != "END")
    for stage in stages:
        end = stage_end(stage)
        attempt = str(stage.attempt) if stage.attempt else "–"
        table.add_row(stage.name, stage.state, attempt, restarts_text(stage.restart_counters) or "–", end)
    return table
