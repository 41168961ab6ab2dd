"""An attempt to train as a PyTorchJob of Training Operator v1: n equal workers, and no restart of its own."""

from __future__ import annotations

from kubeflow.training import (
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
)

from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Resource
from unimrg_operator.backends.environment import pod_environment
from unimrg_operator.backends.profile import SiteProfile

RESOURCE = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")


def pytorch_job(attempt: Attempt, profile: SiteProfile) -> KubeflowOrgV1PyTorchJob:
    """Return the PyTorchJob of an attempt to train. Raises UserError for a job that cannot be run here.

    Without a Master: Training Operator would give every worker an init container with an image of its own, which
    Pod Security `restricted` refuses, and would call the job done when the Master is.
    """
    environment = pod_environment(attempt)
    workers = KubeflowOrgV1ReplicaSpec(
        replicas=environment.nodes,
        restart_policy="Never",
        template=pod.template(attempt, profile),
    )
    return KubeflowOrgV1PyTorchJob(
        api_version=f"{RESOURCE.group}/{RESOURCE.version}",
        kind=RESOURCE.kind,
        metadata=pod.metadata(attempt),
        spec=KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(environment.processes),
            pytorch_replica_specs={"Worker": workers},
            # One pod's failure ends the attempt: the others are taken down, the failed one stays for its log.
            run_policy=KubeflowOrgV1RunPolicy(backoff_limit=0, clean_pod_policy="Running"),
        ),
    )
