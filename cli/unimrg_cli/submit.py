"""Creates a job on a cluster, and can wait for its end; the server's refusals are shown at the file's lines."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.server_reply import problems_of
from unimrg_api.status import ConditionType, JobStatus
from unimrg_api.yaml_source import Document
from unimrg_cli.check import placed
from unimrg_cli.cluster_client import Cluster, ServerError
from unimrg_cli.cluster_view import ClusterJob, headline, read_job
from unimrg_cli.tables import print_status

POLL_SECONDS = 2.0
SILENCE_SECONDS = 600.0
"""How long the API server may be unavailable before waiting is given up."""


def create(cluster: Cluster, document: Document, file: Path, *, dry_run: bool) -> ClusterJob:
    """Create the job that the document of a file holds, in the cluster's namespace.

    Raises JobError, with the file's lines, for what the API server refuses in it; UserError for a name that is
    taken, and where there is no such namespace (INPUT_MISSING).
    """
    manifest: dict[str, Any] = document.value
    name, namespace = manifest["metadata"]["name"], cluster.namespace
    metadata = {**manifest["metadata"], "namespace": namespace}
    try:
        return read_job(cluster.create_job({**manifest, "metadata": metadata}, dry_run=dry_run))
    except ServerError as error:
        if error.code in (400, 422):
            raise JobError(placed(problems_of(error.status), document), source=str(file)) from None
        if error.code == 409:
            raise UserError(
                f"namespace {namespace} has a UniMRGJob {name} already",
                remedy=f"look at it: unimrg status {name} -n {namespace}; give the new one another metadata.name, or "
                f"delete the old one: kubectl delete unimrgjob {name} -n {namespace}",
            ) from None
        if error.code == 404 and error.status.get("details", {}).get("kind") == "namespaces":
            raise UserError(
                f"the cluster has no namespace {namespace}",
                remedy=f"choose another one with -n, or make it: kubectl create namespace {namespace}",
                exit_code=ExitCode.INPUT_MISSING,
            ) from None
        raise


def next_commands(job: ClusterJob, context: str | None, kubeconfig: Path | None) -> list[str]:
    """Return the commands with which to go on with a job that was created."""
    options = ["-n", job.namespace]
    options += ["--context", context] if context is not None else []
    options += ["--kubeconfig", str(kubeconfig)] if kubeconfig is not None else []
    commands = (["unimrg", "status"], ["unimrg", "logs", "--follow"], ["kubectl", "delete", "unimrgjob"])
    return [shlex.join([*command, job.name, *options]) for command in commands]


def watch(cluster: Cluster, job: ClusterJob) -> int:
    """Show where a job stands, whenever that changes, until it has ended.

    Returns the exit code that tells how, or 130 after Ctrl-C. Raises UserError where it was deleted, or the API server
    is away for SILENCE_SECONDS.
    """
    shown, answered, code = "", time.monotonic(), None
    try:
        while code is None:
            try:
                found = read_job(cluster.job(job.name))
                if found.uid != job.uid:
                    message = f"{job.name} was deleted meanwhile, and another job of that name created"
                    raise UserError(message, exit_code=ExitCode.INPUT_MISSING)
                job, text, code, answered = found, headline(found), exit_code(found.status), time.monotonic()
            except UserError as error:
                if error.exit_code is not ExitCode.UNAVAILABLE or time.monotonic() - answered > SILENCE_SECONDS:
                    raise
                text = f"{error.message}; asking again"
            if text != shown:
                sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
                shown = text
            if code is None:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        sys.stderr.write(f"no longer waiting for {job.name}, which goes on\n")
        return int(ExitCode.INTERRUPTED_TWICE)
    print_status(job)
    return code


def exit_code(status: JobStatus | None) -> int | None:
    """Return the exit code of a job that ended: 0 if it is complete, that of its failed stage; None before."""
    if status is not None and _holds(status, "Complete"):
        return int(ExitCode.OK)
    if status is None or not _holds(status, "Failed"):
        return None
    codes = [
        stage.attempt_end.exit_code
        for stage in status.stages
        if stage.state == "Failed" and stage.attempt_end is not None
    ]
    code = codes[0] if codes else None
    return code if code in set(ExitCode) - {ExitCode.OK} else int(ExitCode.PROGRAM)


def _holds(status: JobStatus, name: ConditionType) -> bool:
    condition = status.condition(name)
    return condition is not None and condition.status == "True"
