"""Creates a job on a cluster; the server's refusals are shown at the file's lines."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.server_reply import problems_of
from unimrg_api.yaml_source import Document
from unimrg_cli.check import placed
from unimrg_cli.cluster_client import Cluster, ServerError
from unimrg_cli.cluster_view import ClusterJob, read_job


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
                f"delete the old one: unimrg cancel {name} -n {namespace}",
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
    commands = (["unimrg", "status"], ["unimrg", "logs", "--follow"], ["unimrg", "cancel"])
    return [shlex.join([*command, job.name, *options]) for command in commands]
