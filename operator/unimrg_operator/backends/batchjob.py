"""An attempt that is one pod, as a Job of Kubernetes itself, without a restart of its own."""

from __future__ import annotations

from kubernetes.client import V1Job, V1JobSpec

from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Manifest, ObservedState, Resource
from unimrg_operator.backends.objects import became_false, dig, true_conditions
from unimrg_operator.backends.profile import SiteProfile


class BatchJobBackend:
    """Batch Jobs; see `base.Backend`."""

    resource = Resource("batch", "v1", "jobs", "Job")
    intermediates: tuple[Resource, ...] = ()

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        """Return the Job of an attempt. Raises UserError for a job that cannot be run here."""
        job = V1Job(
            api_version=f"{self.resource.group}/{self.resource.version}",
            kind=self.resource.kind,
            metadata=pod.metadata(attempt),
            spec=V1JobSpec(
                parallelism=1,
                completions=1,
                backoff_limit=0,
                # A pod that was asked to end has not failed yet; by default a second one would start beside it.
                pod_replacement_policy="Failed",
                template=pod.template(attempt, profile),
            ),
        )
        return pod.to_manifest(job)

    def prune(self, item: Manifest) -> Manifest:
        """Return what `observe` reads."""
        suspend = dig(item, "spec", "suspend") is True
        return {"spec": {"suspend": suspend}, "status": {"conditions": dig(item, "status", "conditions") or []}}

    def observe(self, item: Manifest) -> ObservedState:
        """Return the state of a Job: it ends as Complete or Failed."""
        conditions = true_conditions(item)
        if "Failed" in conditions:
            return ObservedState("Failed")
        if "Complete" in conditions:
            return ObservedState("Succeeded")
        if "Suspended" in conditions or dig(item, "spec", "suspend") is True:
            return ObservedState("Suspended")
        return ObservedState("Active", became_false(item, "Suspended"))
