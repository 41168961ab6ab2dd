"""Prints runs, jobs on a cluster and checkpoints as tables for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel
from rich.console import Console
from rich.filesize import decimal as size

from unimrg_api.status import ProgressStatus
from unimrg_api.texts import counted, duration
from unimrg_cli.cluster_view import (
    AT_WORK,
    NOT_TAKEN_UP,
    ClusterJob,
    notable,
    one_line,
    restarts_text,
    score_name,
    short_number,
    stage_end,
    steps_text,
)
from unimrg_cli.printing import Side, print_rows, print_table
from unimrg_cli.run_view import RunDescription
from unimrg_trainer.checkpoint.reader import CommitReport
from unimrg_trainer.checkpoint.retention import Deletable

Rows = list[tuple[str, str]]


def print_status(shown: BaseModel) -> None:
    """Print where a run (RunDescription) or a job on a cluster (ClusterJob) stands."""
    console = _console()
    if isinstance(shown, RunDescription):
        print_rows(console, _run_rows(shown, time.time()))
        if shown.results is not None:
            _print_results(console, shown.results)
        return
    assert isinstance(shown, ClusterJob), shown
    print_rows(console, _job_rows(shown, time.time()))
    if shown.status is not None and shown.status.stages:
        console.print()
        stages = (
            (item.name, item.state, str(item.attempt or "–"), restarts_text(item.restart_counters) or "–",
             stage_end(item)) for item in shown.status.stages
        )  # fmt: skip
        columns: dict[str, Side] = {
            "STAGE": "left",
            "STATE": "left",
            "ATTEMPT": "left",
            "RESTARTS": "left",
            "END": "fold",
        }
        print_table(console, columns, stages)


def print_checkpoints(uri: str, checkpoints: list[CommitReport], *, digests: bool) -> None:
    """Print the committed checkpoints of a run, newest first, whose `digests` were compared, or only their sizes."""
    console = _console()
    if not checkpoints:
        console.print(f"{uri} holds no committed checkpoint yet.", markup=False, highlight=False, soft_wrap=True)
        return
    columns: dict[str, Side] = {
        "STEP": "right",
        "ATTEMPT": "left",
        "GENERATION": "left",
        "SIZE": "right",
        "CREATED": "left",
        "REASON": "left",
    }
    rows = (
        (str(item.step), "–" if item.attempt is None else str(item.attempt), str(item.generation), size(item.bytes),
         item.created or "–", item.reason or "–", item.finding or "ok") for item in checkpoints
    )  # fmt: skip
    print_table(console, {**columns, "DIGESTS" if digests else "SIZES": "fold"}, rows)
    if not digests:
        hint = "Sizes were compared and no bytes; `unimrg ckpt verify` reads them all."
        console.print(hint, markup=False, highlight=False, soft_wrap=True, style="dim")


def print_deletable(uri: str, deletable: list[Deletable], *, deleted: bool) -> None:
    """Print what is, or would be, deleted of a run's checkpoints."""
    console = _console()
    if not deletable:
        console.print(f"There is nothing to delete at {uri}.", markup=False, highlight=False, soft_wrap=True)
        return
    rows = ((str(one.step), one.why, size(one.bytes), one.folder.key if one.folder else "–") for one in deletable)
    print_table(console, {"STEP": "right", "WHY": "left", "SIZE": "right", "FOLDER": "fold"}, rows)
    total = f"{counted(len(deletable), 'checkpoint')}, {size(sum(one.bytes for one in deletable))}"
    said = f"Deleting {total}." if deleted else f"{total} would be deleted. Run the command again with --yes to do it."
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def print_checks(outcomes: Iterable[tuple[str, str, bool, str]]) -> None:
    """Print (strategy, largest difference of a weight, whether it passed, what was checked) of each check."""
    rows = ((strategy, error, "passed" if passed else "FAILED", case) for strategy, error, passed, case in outcomes)
    print_table(_console(), {"STRATEGY": "left", "OFF BY": "right", "RESULT": "left", "CASE": "fold"}, rows)


def print_sweep(columns: list[str], jobs: list[list[str]], means: list[list[str]]) -> None:
    """Print the table of a sweep: its columns, a row for each job and for each mean over seeds."""
    sides: dict[str, Side] = {name.replace("/", "/\n"): "right" for name in columns[2:]}
    print_table(_console(), {"JOB": "left", "STATE": "left", **sides}, [*jobs, *means])


def _console() -> Console:
    console = Console()
    # a table for a file or a pipe is not folded at the width of some terminal
    return console if console.is_terminal else Console(width=240)


def _run_rows(run: RunDescription, now: float) -> Rows:
    rows = [("run", run.uri), ("state", run.state), ("attempts", str(run.attempts or ""))]
    if (progress := run.progress) is not None:
        running = run.state == "Running"  # otherwise the newest commit says how far it is
        eta, rate = progress.eta_seconds, progress.rows_per_second
        rows += [
            ("progress", steps_text(progress) if running else ""),
            ("doing", progress.message if running else ""),
            ("losses", "  ".join(f"{name} {loss:.4f}" for name, loss in progress.losses.items())),
            ("left", duration(eta) if running and eta is not None else ""),
            ("rows/s", "" if rate is None else f"{rate:.1f}"),
            ("note", progress.notice or ""),
            ("reported", f"{duration(now - progress.updated)} ago" if progress.updated else ""),
        ]
    if run.checkpoint is not None:
        finding = f", but {run.checkpoint.finding}" if run.checkpoint.finding else ""
        rows.append(("checkpoint", f"step {run.checkpoint.step}, {size(run.checkpoint.bytes)}{finding}"))
    for end in run.outcomes:
        message = f": {end.message}" if end.message else ""
        rows.append((f"{end.stage} #{end.attempt}", f"{end.reason} ({end.exit_code}){message}"))
    if not run.outcomes and run.last_end is not None and run.last_end.exit_code:
        rows.append(("ended", f"{run.last_end.reason} ({run.last_end.exit_code}): {run.last_end.message}"))
    return [*rows, ("MLflow", run.mlflow_url or ""), ("tracking", run.mlflow_problem or "")]


def _print_results(console: Console, results: dict[str, object]) -> None:
    try:
        # needs numpy, which a machine that only looks at runs need not have
        from unimrg_trainer.evaluation.summary import Summary, render

        summary = Summary.model_validate(results)
    except (ImportError, ValueError):
        console.print("results     results/summary.json (see --output json)", markup=False, highlight=False)
        return
    console.print(render(summary))


def _job_rows(job: ClusterJob, now: float) -> Rows:
    rows = [("job", f"{job.name} in namespace {job.namespace}"), ("run", job.checkpoint_uri)]
    status = job.status
    if status is None:
        remedy = f"is unimrg-operator running, and does it watch the namespace {job.namespace}?"
        return [*rows, ("phase", f"Pending: {NOT_TAKEN_UP} ({remedy})")]
    reason = f" ({status.reason})" if status.reason and status.reason != status.phase else ""
    rows.append(("phase", f"{status.phase}{reason}{', being deleted' if job.deleting else ''}"))
    for item in notable(status):
        known = {"True": "", "Unknown": "not known, "}.get(item.status, "no, ")
        rows.append((item.type, f"{known}{item.reason}{': ' if item.message else ''}{one_line(item.message)}"))
    if status.progress is not None:
        rows += _progress_rows(status.progress, now, active=status.phase in AT_WORK)
    counted = status.progress is not None and status.progress.stage != "train"  # its steps say what is done
    doing = [item.message for item in status.conditions if item.reason == "Advancing" and not counted]
    rows += [("doing", one_line(message)) for message in doing]
    if status.checkpoint is not None:
        rows.append(("checkpoint", f"step {status.checkpoint.step}, {status.checkpoint.uri}"))
    rows += [(score_name(score.name), short_number(score.value)) for score in status.benchmarks]
    if status.mlflow is not None:
        rows.append(("MLflow", status.mlflow.url or (status.mlflow.run_id and f"run {status.mlflow.run_id}") or ""))
    return rows


def _progress_rows(progress: ProgressStatus, now: float, *, active: bool) -> Rows:
    losses = "  ".join(f"{loss.name} {loss.value}" for loss in progress.losses)
    rows = [("progress", steps_text(progress)), ("losses", losses)]
    if not active:
        return rows
    updated = progress.updated_time
    reported = "" if updated is None else f"{duration(now - datetime.fromisoformat(updated).timestamp())} ago"
    return [*rows, ("left", progress.eta), ("rows/s", progress.rows_per_second or ""), ("reported", reported)]
