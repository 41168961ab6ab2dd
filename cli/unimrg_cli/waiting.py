"""Waits for a job on a cluster: until it has ended, or until one of its conditions holds."""

from __future__ import annotations

import sys
import time

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.status import JobStatus
from unimrg_cli.cluster_client import Cluster
from unimrg_cli.cluster_view import ClusterJob, headline, read_job

POLL_SECONDS = 2.0
SILENCE_SECONDS = 600.0
"""How long the API server may be unavailable before waiting is given up."""


def watch(
    cluster: Cluster, job: ClusterJob, condition: str | None = None, timeout: float | None = None
) -> tuple[ClusterJob, int]:
    """Write where a job stands to standard error, whenever that changes, until it has ended or `condition` is True.

    Returns the job as it was last seen and the exit code: 0 where what was waited for is so, that of the job where it
    failed, 130 after Ctrl-C. Raises UserError (INPUT_MISSING) where the job was deleted; (UNAVAILABLE) after `timeout`
    seconds, where it is complete and the condition is not True, and where the API server is away for SILENCE_SECONDS.
    """
    shown, started, code = "", time.monotonic(), None
    answered = started
    try:
        while code is None:
            try:
                found = read_job(cluster.job(job.name))
                if found.uid != job.uid:
                    message = f"{job.name} was deleted meanwhile, and another job of that name created"
                    raise UserError(message, exit_code=ExitCode.INPUT_MISSING)
                job, text, answered = found, headline(found), time.monotonic()
                code = _end(found, condition)
            except UserError as error:
                if error.exit_code is not ExitCode.UNAVAILABLE or time.monotonic() - answered > SILENCE_SECONDS:
                    raise
                text = f"{error.message}; asking again"
            if text != shown:
                sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
                shown = text
            if code is None:
                if timeout is not None and time.monotonic() - started >= timeout:
                    wanted = "has not ended" if condition is None else f"is not {condition}"
                    raise UserError(
                        f"{job.name} {wanted} after {timeout:g} seconds: {text}",
                        remedy="wait again, or give a longer --timeout",
                        exit_code=ExitCode.UNAVAILABLE,
                    )
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        sys.stderr.write(f"no longer waiting for {job.name}, which goes on\n")
        return job, int(ExitCode.INTERRUPTED_TWICE)
    if condition is not None and code == ExitCode.OK and not holds(job.status, condition):
        raise UserError(
            f"{job.name} is complete, and its condition {condition} is not True",
            remedy=f"look at it: unimrg status {job.name} -n {job.namespace}",
            exit_code=ExitCode.UNAVAILABLE,
        )
    return job, code


def _end(job: ClusterJob, condition: str | None) -> int | None:
    """Return the exit code with which waiting ends, None as long as it goes on."""
    if condition is not None and holds(job.status, condition):
        return int(ExitCode.OK)
    return exit_code(job.status)


def exit_code(status: JobStatus | None) -> int | None:
    """Return the exit code of a job that ended: 0 if it is complete, that of its failed stage; None before."""
    if status is not None and holds(status, "Complete"):
        return int(ExitCode.OK)
    if status is None or not holds(status, "Failed"):
        return None
    codes = [
        stage.attempt_end.exit_code
        for stage in status.stages
        if stage.state == "Failed" and stage.attempt_end is not None
    ]
    code = codes[0] if codes else None
    return code if code in set(ExitCode) - {ExitCode.OK} else int(ExitCode.PROGRAM)


def holds(status: JobStatus | None, name: str) -> bool:
    """Return whether a condition is True."""
    return status is not None and any(item.type == name and item.status == "True" for item in status.conditions)
