"""An attempt with pods on several nodes as a JobSet: one Indexed Job whose pods are the nodes."""

from __future__ import annotations

from kubernetes import client as k8s

from unimrg_operator.backends import batchjob, pod
from unimrg_operator.backends.base import Attempt, Manifest, ObservedState, Resource, state_of
from unimrg_operator.backends.batchjob import BatchJobBackend
from unimrg_operator.backends.children import child_name, labels_of, suspended
from unimrg_operator.backends.objects import dig
from unimrg_operator.backends.profile import SiteProfile

GROUP_NAME = "w"
"""Name of the one replicated Job. It is part of the pods' names, for which JobSet leaves 63 characters: one letter."""


class JobSetBackend:
    """JobSets; see `base.Backend`."""

    resource = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
    intermediates: tuple[Resource, ...] = (BatchJobBackend.resource,)

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        """Return the JobSet of an attempt. Raises UserError for a job that cannot be run here.

        JobSet publishes the pod of rank 0 as `<child>-w-0-0` in the child's own headless Service, ready or not.
        """
        name = child_name(attempt)
        pods = pod.environment_of(attempt).nodes
        template = pod.template(
            attempt, profile, node_rank=batchjob.NODE_RANK, master_address=f"{name}-{GROUP_NAME}-0-0.{name}"
        )
        nodes = k8s.V1JobTemplateSpec(
            metadata=k8s.V1ObjectMeta(labels=labels_of(attempt)), spec=batchjob.job_spec(template, pods=pods)
        )
        return pod.to_manifest(
            {
                "apiVersion": self.resource.api_version,
                "kind": self.resource.kind,
                "metadata": pod.metadata(attempt),
                "spec": {
                    **({"suspend": True} if suspended(attempt) else {}),
                    "replicatedJobs": [{"name": GROUP_NAME, "replicas": 1, "template": nodes}],
                    "failurePolicy": {"maxRestarts": 0},  # attempts are counted by the operator
                },
            }
        )

    def observe(self, item: Manifest) -> ObservedState:
        """Return the state of a JobSet."""
        return state_of(item, succeeded="Completed", suspend=dig(item, "spec", "suspend"))
