"""An attempt with pods on several nodes as a PyTorchJob of Kubeflow's Training Operator v1: n equal workers."""

from __future__ import annotations

from kubeflow.training import (
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
)

from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Manifest, ObservedState, Resource, state_of
from unimrg_operator.backends.children import child_name, suspended
from unimrg_operator.backends.objects import dig
from unimrg_operator.backends.profile import SiteProfile

NODE_RANK = "metadata.labels['training.kubeflow.org/replica-index']"
"""Training Operator's label on the pods of a PyTorchJob."""


class PyTorchJobBackend:
    """PyTorchJobs; see `base.Backend`. Training Operator demands the container name `pytorch`."""

    resource = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
    intermediates: tuple[Resource, ...] = ()

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        """Return the PyTorchJob of an attempt. Raises UserError for a job that cannot be run here.

        Without a Master: Training Operator would give every worker an init container with an image of its own, which
        Pod Security `restricted` refuses, and would call the job done when the Master is.
        """
        environment = pod.environment_of(attempt)
        workers = KubeflowOrgV1ReplicaSpec(
            replicas=environment.nodes,
            restart_policy="Never",
            template=pod.template(
                attempt, profile, node_rank=NODE_RANK, master_address=f"{child_name(attempt)}-worker-0"
            ),
        )
        job = KubeflowOrgV1PyTorchJob(
            api_version=self.resource.api_version,
            kind=self.resource.kind,
            metadata=pod.metadata(attempt),
            spec=KubeflowOrgV1PyTorchJobSpec(
                nproc_per_node=str(environment.processes),
                pytorch_replica_specs={"Worker": workers},
                # One pod's failure ends the attempt: the others are taken down, the failed one stays for its log.
                run_policy=KubeflowOrgV1RunPolicy(
                    backoff_limit=0, clean_pod_policy="Running", suspend=suspended(attempt)
                ),
            ),
        )
        return pod.to_manifest(job)

    def observe(self, item: Manifest) -> ObservedState:
        """Return the state of a PyTorchJob."""
        return state_of(item, succeeded="Succeeded", suspend=dig(item, "spec", "runPolicy", "suspend"))
