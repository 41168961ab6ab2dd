"""What every child has in common: labels, annotations, owner; and the first attempts of a job."""

from __future__ import annotations

from unimrg_api import cluster
from unimrg_api.digests import canonical_json, sha256_of
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import dump_job
from unimrg_api.stages import wanted_stages
from unimrg_api.status import RestartCounters
from unimrg_operator.backends.base import Attempt, Manifest


def first_attempts(job: UniMRGJob, namespace: str) -> list[Attempt]:
    """Return attempt 1 of every stage that the job has if all goes well, in order; nothing owns them."""
    return [
        Attempt(
            job=job,
            namespace=namespace,
            uid="",
            stage=stage,
            number=1,
            train_attempt=1,
            restart_counters=RestartCounters(),
        )
        for stage in wanted_stages(job)
    ]


def child_name(attempt: Attempt) -> str:
    """Return the name of an attempt's child."""
    return cluster.child_name(attempt.job.metadata.name, attempt.stage, attempt.number)


def spec_digest(job: UniMRGJob) -> str:
    """Return the digest of a job's spec with every default written out."""
    return sha256_of(dump_job(job)["spec"])


def labels_of(attempt: Attempt) -> dict[str, str]:
    """Return the labels of a child and of its pods: the user's own ones stay on the job."""
    return {
        cluster.JOB_LABEL: attempt.job.metadata.name,
        cluster.STAGE_LABEL: attempt.stage,
        cluster.ATTEMPT_LABEL: str(attempt.number),
    }


def annotations_of(attempt: Attempt) -> dict[str, str]:
    """Return the annotations of a child."""
    return {
        cluster.SPEC_DIGEST_ANNOTATION: spec_digest(attempt.job),
        cluster.RESTART_COUNTERS_ANNOTATION: canonical_json(
            attempt.restart_counters.model_dump(mode="json", by_alias=True)
        ),
    }


def owner_of(attempt: Attempt) -> Manifest | None:
    """Return the reference through which a child goes with its job; None where there is no such object yet.

    Without blockOwnerDeletion, which would need a right on the job's finalizers in some clusters.
    """
    if not attempt.uid:
        return None
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": attempt.job.metadata.name,
        "uid": attempt.uid,
        "controller": True,
    }
