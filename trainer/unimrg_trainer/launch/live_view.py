"""Shows the job's progress on a terminal, or line by line in a log, from the endpoint that the operator reads too."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from unimrg_api.progress import Progress as Report
from unimrg_api.record import SIZE_LIMIT
from unimrg_api.stages import STAGES, StageName
from unimrg_api.texts import duration
from unimrg_trainer.launch.signals import StopRequest

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
"""How often a line is written where there is no terminal."""
_REQUEST_SECONDS = 2.0
STOPPING = "Stopping: the step under way is committed first. Ctrl-C again ends at once and loses it."
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine, whatever proxy the environment names for others."""


@contextmanager
def live_view(console: Console, port: int | None, stop: StopRequest | None = None) -> Iterator[None]:
    """Show the progress that is served at `port` for the length of the block, from a thread.

    A request to stop is acknowledged at once, for what follows it takes a while.
    """
    if port is None:
        yield
        return
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        view: _Bars | _Lines = stack.enter_context(_Bars(console)) if console.is_terminal else _Lines(console)
        thread = threading.Thread(target=_watch, args=(port, view, ended, stop, console), name="live-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def fetch(port: int) -> Report | None:
    """Ask for the progress once; None if nothing usable comes back."""
    try:
        with _DIRECTLY.open(f"http://127.0.0.1:{port}/progress", timeout=_REQUEST_SECONDS) as answer:
            return Report.parse(answer.read(SIZE_LIMIT + 1))
    except (OSError, http.client.HTTPException):
        return None


def describe(report: Report) -> str:
    """Losses, speed and last commit of a report, as far as it has them."""
    parts = [f"{name} {value:.3f}" for name, value in report.losses.items()]
    if report.samples_per_second:
        parts.append(f"{report.samples_per_second:.1f} rows/s")
    if report.checkpoint_step:
        parts.append(f"committed {report.checkpoint_step}")
    if report.message:
        parts.append(report.message)
    return "  ".join(parts)


def _watch(port: int, view: _Bars | _Lines, ended: threading.Event, stop: StopRequest | None, console: Console) -> None:
    last = acknowledged = False
    while not last:
        last = ended.wait(POLL_SECONDS)  # once more after the end, for the last step
        if stop is not None and stop.requested and not acknowledged and not last:
            console.print(STOPPING, markup=False, highlight=False)
            acknowledged = True
        report = fetch(port)
        if report is not None and report.updated:
            view.show(report)


class _Bars(contextlib.AbstractContextManager["_Bars"]):
    """One line per stage, the running one moving."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[stage]:<8}", table_column=Column(no_wrap=True, min_width=8)),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TextColumn("{task.fields[steps]}", table_column=Column(no_wrap=True, min_width=9)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=10)),
            # what a narrow terminal has no room for is cut here and nowhere else
            TextColumn("[dim]{task.fields[facts]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
        )
        self._tasks: dict[StageName, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._progress.stop()

    def show(self, report: Report) -> None:
        if report.stage not in self._tasks:
            self._finish()
            if STAGES[report.stage].distributed:  # the stages before it have succeeded, the last report of each or not
                for task in (task for name, task in self._tasks.items() if not STAGES[name].distributed):
                    self._complete(task)
            self._tasks[report.stage] = self._progress.add_task(
                report.stage, total=None, stage=report.stage, steps="", left="", facts=""
            )
        known = report.total_steps > 0
        self._progress.update(
            self._tasks[report.stage],
            total=report.total_steps if known else None,
            completed=report.step,
            steps=f"{report.step}/{report.total_steps}" if known else "",
            left=f"{duration(report.eta_seconds)} left" if report.eta_seconds else "",
            facts=describe(report),
        )

    def _complete(self, task: TaskID) -> None:
        """Fill the bar of a stage whose last report came before its end."""
        total = self._progress.tasks[task].total
        if total is not None and self._progress.tasks[task].fields["steps"]:
            self._progress.update(task, completed=total, steps=f"{total:.0f}/{total:.0f}")

    def _finish(self) -> None:
        """Stop the clock of the stage before; its bar no longer moves."""
        for task in self._progress.tasks:
            if task.finished_time is None:
                total = task.total if task.total is not None else 1
                completed = task.completed if task.total is not None else 1
                self._progress.update(task.id, total=total, completed=completed, left="")
                self._progress.stop_task(task.id)


class _Lines:
    """A line when something changed, at most every few seconds, and at once for a new stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._text = ""
        self._written = 0.0

    def show(self, report: Report) -> None:
        steps = f"{report.step}/{report.total_steps}" if report.total_steps else ""
        left = f"{duration(report.eta_seconds)} left" if report.eta_seconds else ""
        text = "  ".join(part for part in (report.stage, steps, left, describe(report)) if part)
        due = time.monotonic() - self._written >= LINE_SECONDS or report.stage != self._stage
        if text != self._text and due:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._stage, self._text, self._written = report.stage, text, time.monotonic()
