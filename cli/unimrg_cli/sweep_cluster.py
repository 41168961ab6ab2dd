"""Creates the jobs of a sweep on a cluster, all at once or a few at a time, and waits for their ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from unimrg_api.cluster import SWEEP_LABEL
from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.yaml_source import Document
from unimrg_cli.cluster_client import Cluster
from unimrg_cli.cluster_view import ClusterJob, headline, read_job
from unimrg_cli.run_view import json_object
from unimrg_cli.submit import create
from unimrg_cli.sweep_file import Sweep
from unimrg_cli.sweep_results import JobResult, SweepResult, cluster_result, sweep_result
from unimrg_cli.waiting import POLL_SECONDS, SILENCE_SECONDS, exit_code
from unimrg_trainer.storage import open_store


def look(cluster: Cluster, sweep: Sweep) -> SweepResult:
    """Return what the cluster says of the jobs, with the losses of those whose store can be read from here."""
    found, results, readable = _found(cluster, sweep), list[JobResult](), True
    for job in sweep.jobs:
        summary: dict[str, Any] = {}
        if readable and job.name in found and exit_code(found[job.name].status) == ExitCode.OK:
            try:
                summary = json_object(open_store(job.uri, job.job.spec.storage), SUMMARY_KEY)
            except (UserError, ImportError) as error:  # the others lie in the same store
                _say(f"losses are left out, for {job.uri} cannot be read from here: {error}")
                readable = False
        results.append(cluster_result(job, found.get(job.name), summary))
    return sweep_result(sweep, results)


def submit_all(cluster: Cluster, sweep: Sweep, file: Path, parallel: int | None, *, wait: bool) -> int:
    """Create the jobs that the cluster has not; with `parallel`, so many at most are unfinished at a time.

    `wait` means until all have ended. Returns 0, or the exit code of the first job that failed, 130 after Ctrl-C.
    Raises UserError for a name that a job outside the sweep has, and where the API server is away for long.
    """
    shown: dict[str, str] = {}
    answered: float | None = None
    try:
        while True:
            try:
                found = _found(cluster, sweep)
                for name, job in found.items():
                    if shown.get(name) != (text := headline(job)):
                        shown[name] = text
                        _say(f"{name}: {text}")
                unfinished = sum(exit_code(job.status) is None for job in found.values())
                for planned in [job for job in sweep.jobs if job.name not in found]:
                    if parallel is not None and unfinished >= parallel:
                        break
                    found[planned.name] = create(cluster, Document(planned.value), file, dry_run=False)
                    unfinished += 1
                    _say(f"created {planned.name} in namespace {cluster.namespace}")
                answered = time.monotonic()
                if len(found) == len(sweep.jobs) and (not wait or not unfinished):
                    codes = [exit_code(found[job.name].status) for job in sweep.jobs]
                    return next((code for code in codes if code), int(ExitCode.OK))
            except UserError as error:
                away = time.monotonic() - (answered or 0.0)
                if error.exit_code is not ExitCode.UNAVAILABLE or answered is None or away > SILENCE_SECONDS:
                    raise
                _say(f"{error.message}; asking again")
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _say("no longer waiting; what was created goes on, and the same command creates the rest")
        return int(ExitCode.INTERRUPTED_TWICE)


def _found(cluster: Cluster, sweep: Sweep) -> dict[str, ClusterJob]:
    """Return the jobs of the sweep that the cluster has, by name."""
    names = {job.name for job in sweep.jobs}
    jobs = [read_job(value) for value in cluster.jobs({SWEEP_LABEL: sweep.name})]
    return {job.name: job for job in jobs if job.name in names}


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
