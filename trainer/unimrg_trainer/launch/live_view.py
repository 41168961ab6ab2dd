"""Shows the job's progress on a terminal, or line by line in a log, from the endpoint that the operator reads too."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from unimrg_api.progress import Progress
from unimrg_api.record import SIZE_LIMIT
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

    A terminal has one line per stage, which changes in place; a log has a line when something changed, at most every
    few seconds, and at once for a new stage. A request to stop is acknowledged at once.
    """
    if port is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(console, port, ended, stop), name="live-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def fetch(port: int) -> Progress | None:
    """Ask for the progress once; None if nothing usable comes back."""
    try:
        with _DIRECTLY.open(f"http://127.0.0.1:{port}/progress", timeout=_REQUEST_SECONDS) as answer:
            return Progress.parse(answer.read(SIZE_LIMIT + 1))
    except (OSError, http.client.HTTPException):
        return None


def describe(report: Progress) -> str:
    """Stage, steps, time left, losses, speed and last commit of a report in one line, as far as it has them."""
    parts: list[str] = [
        report.stage,
        f"{report.step}/{report.total_steps}" if report.total_steps else "",
        f"{duration(report.eta_seconds)} left" if report.eta_seconds else "",
        *(f"{name} {value:.3f}" for name, value in report.losses.items()),
        f"{report.samples_per_second:.1f} rows/s" if report.samples_per_second else "",
        f"committed {report.checkpoint_step}" if report.checkpoint_step else "",
        report.message,
    ]
    return "  ".join(part for part in parts if part)


def _watch(console: Console, port: int, ended: threading.Event, stop: StopRequest | None) -> None:
    stage = text = ""
    written = 0.0
    last = acknowledged = False
    with Live(console=console, auto_refresh=False) as live:
        while not last:
            last = ended.wait(POLL_SECONDS)  # once more after the end, for the last step
            if stop is not None and stop.requested and not acknowledged and not last:
                console.print(STOPPING, markup=False, highlight=False)
                acknowledged = True
            report = fetch(port)
            if report is None or not report.updated or describe(report) == text:
                continue
            if console.is_terminal:
                if stage not in ("", report.stage):
                    console.print(text, markup=False, highlight=False)
                live.update(Text(describe(report), no_wrap=True, overflow="ellipsis"), refresh=True)
            elif last or report.stage != stage or time.monotonic() - written >= LINE_SECONDS:
                console.print(describe(report), markup=False, highlight=False, soft_wrap=True)
            else:
                continue
            stage, text, written = report.stage, describe(report), time.monotonic()
