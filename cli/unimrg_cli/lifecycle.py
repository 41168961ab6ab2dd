"""Suspends, resumes and deletes a job on a cluster, and says what follows from it."""

from __future__ import annotations

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_cli.cluster_client import Cluster, ServerError
from unimrg_cli.cluster_view import ClusterJob, headline, read_job
from unimrg_cli.waiting import exit_code


def set_suspended(cluster: Cluster, name: str, suspend: bool) -> tuple[ClusterJob, str]:
    """Set `spec.suspend` of a job; return the job and what follows. Raises UserError for one that has ended."""
    job = read_job(cluster.job(name))
    command = f"unimrg {'resume' if suspend else 'suspend'} {name} -n {job.namespace}"
    if exit_code(job.status) is not None:
        raise _ended(job, suspend)
    if job.suspend == suspend:
        return job, f"{name} {'is suspended already' if suspend else 'is not suspended'}: {headline(job)}"
    job = read_job(cluster.suspend_job(name, suspend))
    if suspend:
        return job, f"{name} is being suspended: its pods end after a last commit. To go on from it: {command}"
    return job, f"{name} goes on from its last commit. To stop it again: {command}"


def _ended(job: ClusterJob, suspend: bool) -> UserError:
    """Return why a job that has ended can be neither suspended nor resumed, and what can be done."""
    if exit_code(job.status) == ExitCode.OK:
        return UserError(f"{job.name} is complete; nothing is left to do")
    remedy = (
        f"correct the cause, then unimrg cancel {job.name} -n {job.namespace} and submit it again: with the same "
        "spec.checkpoint.uri it goes on from its last commit, if there is one"
    )
    return UserError(
        f"{job.name} has ended and cannot be {'suspended' if suspend else 'resumed'}: {headline(job)}", remedy=remedy
    )


def what_stays(job: ClusterJob) -> str:
    """Return what the deletion of a job leaves behind."""
    run = job.status.mlflow if job.status is not None else None
    record = f", and its records in MLflow ({run.url or run.run_id})" if run is not None else ""
    return (
        f"Checkpoints, logs and results stay under {job.checkpoint_uri or 'its spec.checkpoint.uri'}{record}; a job "
        "with the same training and prefix goes on from there."
    )


def cancel(cluster: Cluster, job: ClusterJob) -> None:
    """Delete a job. Raises UserError if it was replaced by another of its name meanwhile."""
    try:
        cluster.delete_job(job.name, job.uid)
    except ServerError as error:
        if error.code == 409:
            message = f"{job.name} was deleted meanwhile, and another job of that name created; that one stays"
            raise UserError(message) from None
        raise
