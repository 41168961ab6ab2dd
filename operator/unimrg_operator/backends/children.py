"""How children are called and labelled; and the first attempts of a job."""

from __future__ import annotations

from unimrg_api import cluster
from unimrg_api.digests import sha256_of
from unimrg_api.job import UniMRGJob
from unimrg_api.load import dump_job
from unimrg_api.mutable_fields import without_mutable_fields
from unimrg_api.stages import wanted_stages
from unimrg_api.status import RestartCounters
from unimrg_operator.backends.base import Attempt


def first_attempts(job: UniMRGJob, namespace: str) -> list[Attempt]:
    """Return attempt 1 of every stage that the job has if all goes well, in order; nothing owns them."""
    return [
        Attempt(job, namespace, uid="", stage=stage, number=1, train_attempt=1, restart_counters=RestartCounters())
        for stage in wanted_stages(job)
    ]


def child_name(attempt: Attempt) -> str:
    """Return the name of an attempt's child."""
    return cluster.child_name(attempt.job.metadata.name, attempt.stage, attempt.number)


def spec_digest(job: UniMRGJob) -> str:
    """Return the digest of what all children of a job have in common: its spec with every default written out."""
    return sha256_of(without_mutable_fields(dump_job(job)["spec"]))


def labels_of(attempt: Attempt) -> dict[str, str]:
    """Return the labels of a child and of its pods: the user's own ones stay on the job."""
    return {
        cluster.JOB_LABEL: attempt.job.metadata.name,
        cluster.STAGE_LABEL: attempt.stage,
        cluster.ATTEMPT_LABEL: str(attempt.number),
    }
