"""Runs the jobs of a sweep on this machine, a few at a time, each in a process of its own, as `unimrg run` does."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from unimrg_api.exit_codes import ExitCode
from unimrg_cli.run_view import describe_run
from unimrg_cli.sweep_file import PlannedJob, Sweep
from unimrg_cli.sweep_results import FINISHED, SweepResult, job_result, sweep_result

RUN = (sys.executable, "-m", "unimrg_cli.main", "run")
"""Runs the job whose file follows."""
LAST_LINES = 8
"""Lines that are shown of a job that failed beside others."""


def look(sweep: Sweep) -> SweepResult:
    """Return what is known of the jobs' runs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [describe_run(str(job.write(Path(folder)))) for job in sweep.jobs]
    results = [job_result(job, run.state, run.results or {}) for job, run in zip(sweep.jobs, runs, strict=True)]
    return sweep_result(sweep, results)


def run_all(sweep: Sweep, parallel: int, processes: int | None, *, quiet: bool) -> int:
    """Run every job that is not complete, `parallel` at a time; return the exit code of the first that failed, else 0.

    A job that fails does not keep others from running. A signal is passed on to those that run, and no other is begun;
    the same sweep then goes on where it was. `quiet`: nothing is written to standard output.
    """
    done = {result.name for result in look(sweep).jobs if result.state == FINISHED}
    waiting = [job for job in sweep.jobs if job.name not in done]
    _say(f"{len(sweep.jobs)} jobs, {len(done)} of them complete" if done else f"{len(sweep.jobs)} jobs")
    runner = _Runner(parallel > 1, processes, quiet)
    with tempfile.TemporaryDirectory() as folder, runner.signals(), ThreadPoolExecutor(parallel) as pool:
        ends = [pool.submit(runner.run, job, Path(folder)) for job in waiting]
        while wait(ends, timeout=0.5).not_done:  # a signal is handled in this thread, between two waits
            pass
        codes = [end.result() for end in ends]
    if runner.stopped.is_set():
        _say("stopped; run the same command again to go on")
        return int(ExitCode.INTERRUPTED)
    return next((code for code in codes if code), int(ExitCode.OK))


class _Runner:
    """Starts jobs, and passes signals on to those that run."""

    def __init__(self, beside_others: bool, processes: int | None, quiet: bool) -> None:
        self.stopped = threading.Event()
        self._beside_others = beside_others
        self._options = [] if processes is None else ["--processes", str(processes)]
        self._quiet = quiet
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM for the length of the block."""

        def forward(number: int, _: FrameType | None) -> None:
            self.stopped.set()
            for process in tuple(self._running):
                process.send_signal(number)

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, job: PlannedJob, folder: Path) -> int:
        """Run a job to its end and return its exit code; 0 at once if the sweep was stopped."""
        if self.stopped.is_set():
            return int(ExitCode.OK)
        _say(f"{job.name}: begun ({', '.join(job.labels.values())})")
        log = folder / f"{job.name}.log"
        command = [*RUN, str(job.write(folder)), *self._options]
        with log.open("wb") as file:
            output = file if self._beside_others else 2 if self._quiet else None
            error = subprocess.STDOUT if self._beside_others else None
            with self._lock:  # so that a signal which comes meanwhile finds the process
                # in a process group of its own: the terminal's Ctrl-C then comes once, from here
                process = subprocess.Popen(command, stdout=output, stderr=error, process_group=0)
                self._running.add(process)
            if self.stopped.is_set():
                process.send_signal(signal.SIGTERM)
            code = process.wait()
        self._running.discard(process)
        _say(f"{job.name}: {'complete' if code == ExitCode.OK else f'ended with exit code {code}'}")
        if code and self._beside_others and not self.stopped.is_set():
            for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:]:
                _say(f"    {line}")
        return code


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
