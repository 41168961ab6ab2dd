"""An attempt of a stage that is one pod, as a Job of Kubernetes itself, without a restart of its own."""

from __future__ import annotations

from kubernetes.client import V1Job, V1JobSpec

from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Resource
from unimrg_operator.backends.profile import SiteProfile

RESOURCE = Resource("batch", "v1", "jobs", "Job")


def batch_job(attempt: Attempt, profile: SiteProfile) -> V1Job:
    """Return the Job of an attempt. Raises UserError for a job that cannot be run here."""
    return V1Job(
        api_version=f"{RESOURCE.group}/{RESOURCE.version}",
        kind=RESOURCE.kind,
        metadata=pod.metadata(attempt),
        spec=V1JobSpec(
            parallelism=1,
            completions=1,
            backoff_limit=0,
            # A pod that is told to go has not failed yet; by default a second one would start beside it.
            pod_replacement_policy="Failed",
            template=pod.template(attempt, profile),
        ),
    )
