"""An attempt whose pods do not talk to one another, as a Job of Kubernetes itself, without a restart of its own."""

from __future__ import annotations

from kubernetes import client as k8s

from unimrg_api.stages import STAGES
from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Manifest, ObservedState, Resource, state_of
from unimrg_operator.backends.children import suspended
from unimrg_operator.backends.objects import dig
from unimrg_operator.backends.profile import SiteProfile

NODE_RANK = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
"""Kubernetes' annotation on the pods of an Indexed Job."""


class BatchJobBackend:
    """Batch Jobs; see `base.Backend`."""

    resource = Resource("batch", "v1", "jobs", "Job")
    intermediates: tuple[Resource, ...] = ()

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        """Return the Job of an attempt. Raises UserError for a job that cannot be run here."""
        count = STAGES[attempt.stage].pods(attempt.job)
        pods = count if count > 1 else None
        template = pod.template(attempt, profile, node_rank=None if pods is None else NODE_RANK)
        job = k8s.V1Job(
            api_version=self.resource.api_version,
            kind=self.resource.kind,
            metadata=pod.metadata(attempt),
            spec=job_spec(template, pods=pods, suspend=suspended(attempt)),
        )
        return pod.to_manifest(job)

    def observe(self, item: Manifest) -> ObservedState:
        """Return the state of a Job."""
        return state_of(item, succeeded="Complete", suspend=dig(item, "spec", "suspend"))


def job_spec(template: k8s.V1PodTemplateSpec, *, pods: int | None = None, suspend: bool | None = None) -> k8s.V1JobSpec:
    """Return the spec of a Job that never restarts a pod: of one, or of `pods` that are counted from 0."""
    return k8s.V1JobSpec(
        suspend=suspend,
        parallelism=pods or 1,
        completions=pods or 1,
        completion_mode=None if pods is None else "Indexed",
        backoff_limit=0,
        # A pod that was asked to end has not failed yet; by default a second one would start beside it.
        pod_replacement_policy="Failed",
        template=template,
    )
