"""Turns descriptions of runs and checkpoints into tables for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from unimrg_api.texts import duration
from unimrg_cli.checkpoint_list import Checkpoint
from unimrg_cli.run_view import RunDescription


def print_run(run: RunDescription, now: float | None = None) -> None:
    """Print where a run stands; `now` is Unix time in seconds."""
    console = terminal()
    print_rows(console, _rows(run, time.time() if now is None else now))
    if run.results is not None:
        _print_results(console, run.results)


def print_checkpoints(uri: str, checkpoints: list[Checkpoint]) -> None:
    """Print the committed checkpoints of a run, newest first."""
    console = terminal()
    if not checkpoints:
        console.print(f"{uri} holds no committed checkpoint yet.", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("STEP", "ATTEMPT", "GENERATION", "SIZE", "CREATED", "SIZES"):
        table.add_column(name, justify="right" if name in ("STEP", "SIZE") else "left", no_wrap=name != "SIZES")
    for item in checkpoints:
        table.add_row(
            str(item.step),
            "–" if item.attempt is None else str(item.attempt),
            str(item.generation),
            size(item.bytes),
            item.created or "–",
            item.finding or "verified",
        )
    console.print(table, markup=False, highlight=False)


def terminal() -> Console:
    """Return where tables are printed."""
    console = Console()
    # a table for a file or a pipe is not folded at the width of some terminal
    return console if console.is_terminal else Console(width=240)


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print values below each other, each with its name before it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table, markup=False, highlight=False)


def size(count: int) -> str:
    """Return a number of bytes as people write it: `1.5 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _rows(run: RunDescription, now: float) -> list[tuple[str, str]]:
    rows = [("run", run.uri), ("state", run.state)]
    if run.attempts:
        rows.append(("attempts", str(run.attempts)))
    progress = run.progress
    if progress is not None:
        if run.state == "Running":  # at rest the newest commit says how far it is
            done = f"{progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
            rows.append(("progress", f"{progress.stage}, {'step ' if progress.stage == 'train' else ''}{done}"))
        if progress.losses:
            rows.append(("losses", "  ".join(f"{name} {loss:.4f}" for name, loss in progress.losses.items())))
        if run.state == "Running" and progress.eta_seconds is not None:
            rows.append(("left", duration(progress.eta_seconds)))
        if progress.samples_per_second is not None:
            rows.append(("rows/s", f"{progress.samples_per_second:.1f}"))
        if progress.updated:
            rows.append(("reported", f"{duration(now - progress.updated)} ago"))
    if run.checkpoint is not None:
        finding = f", but {run.checkpoint.finding}" if run.checkpoint.finding else ""
        text = f"step {run.checkpoint.step}, {size(run.checkpoint.bytes)}{finding}"
        rows.append(("checkpoint", text))
    for outcome in run.outcomes:
        message = f": {outcome.message}" if outcome.message else ""
        text = f"{outcome.reason} ({outcome.exit_code}){message}"
        rows.append((f"{outcome.stage} #{outcome.attempt}", text))
    if not run.outcomes and run.last_end is not None and run.last_end.exit_code:
        end = run.last_end
        rows.append(("ended", f"{end.reason} ({end.exit_code}): {end.message}"))
    if run.mlflow_url:
        rows.append(("MLflow", run.mlflow_url))
    return rows


def _print_results(console: Console, results: dict[str, object]) -> None:
    try:
        # needs numpy, which a machine that only looks at runs need not have
        from unimrg_trainer.evaluation.summary import Summary, render

        summary = Summary.model_validate(results)
    except (ImportError, ValueError):
        console.print("results     results/summary.json (see --output json)", markup=False, highlight=False)
        return
    console.print(render(summary))
