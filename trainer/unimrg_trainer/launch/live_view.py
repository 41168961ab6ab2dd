"""Shows the job's progress on a terminal, or line by line in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from unimrg_api.progress import Progress
from unimrg_api.stages import STAGES
from unimrg_api.texts import counted, duration
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.launch.signals import StopRequest

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
"""Interval between lines without a terminal."""
STOPPING = "Stopping: a checkpoint is saved first. Press Ctrl-C again to exit immediately without saving."
STOPPING_WITHOUT = "Stopping. Press Ctrl-C again to exit immediately."


@contextmanager
def live_view(console: Console, run_dir: Path, stop: StopRequest | None = None) -> Iterator[None]:
    """Show the progress of `run_dir` for the length of the block, from a thread.

    A terminal has one line per stage, updated in place; a log has a line when something changed, at most every few
    seconds, and at once for a new stage. A stop request is acknowledged at once.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(console, run_dir, ended, stop), name="live-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def progress_line(report: Progress) -> str:
    """Stage, steps, remaining time, losses, speed and last checkpoint in one line, as far as the report has them.

    The message of a stage that takes no steps says itself how far it is.
    """
    counts = report.total_steps and (STAGES[report.stage].trains or not report.message)
    parts: list[str] = [
        report.stage,
        f"{report.step}/{report.total_steps}" if counts else "",
        f"{duration(report.eta_seconds)} left" if report.eta_seconds else "",
        *(f"{name} {value:.3f}" for name, value in report.losses.items()),
        f"{report.rows_per_second:.1f} rows/s" if report.rows_per_second else "",
        f"checkpoint {report.checkpoint_step}" if report.checkpoint_step else "",
        counted(report.skipped_steps, "skipped step") if report.skipped_steps else "",
        report.message,
    ]
    return "  ".join(part for part in parts if part)


def _watch(console: Console, run_dir: Path, ended: threading.Event, stop: StopRequest | None) -> None:
    stage = text = problem = notice = held_back = ""
    written = 0.0
    last = acknowledged = False
    with Live(console=console, auto_refresh=False) as live:
        while not last:
            last = ended.wait(POLL_SECONDS)  # once more after the end, to show the last step
            report = read_progress(run_dir)
            if stop is not None and stop.requested and not acknowledged and not last:
                saves = STAGES[report.stage].trains
                console.print(STOPPING if saves else STOPPING_WITHOUT, markup=False, highlight=False)
                acknowledged = True
            if (report.mlflow_problem or "") != problem:
                problem = report.mlflow_problem or ""
                message = (
                    f"Tracking: {problem}. Training goes on." if problem else "Tracking: MLflow accepts records again."
                )
                console.print(message, markup=False, highlight=False, soft_wrap=True, style="yellow")
            if (report.notice or "") not in ("", notice):
                notice = report.notice or ""
                console.print(f"Note: {notice}.", markup=False, highlight=False, soft_wrap=True, style="yellow")
            if not report.updated or progress_line(report) == text:
                continue
            if console.is_terminal:
                if stage not in ("", report.stage):
                    console.print(text, markup=False, highlight=False)
                live.update(Text(progress_line(report), no_wrap=True, overflow="ellipsis"), refresh=True)
            elif last or report.stage != stage or time.monotonic() - written >= LINE_SECONDS:
                lines = [held_back] if held_back and report.stage != stage else []  # how far the stage before came
                console.print("\n".join([*lines, progress_line(report)]), markup=False, highlight=False, soft_wrap=True)
                held_back = ""
            else:
                held_back = progress_line(report)
                continue
            stage, text, written = report.stage, progress_line(report), time.monotonic()
