"""The pod of an attempt: one template for all stages, fit for a namespace under Pod Security `restricted`."""

from __future__ import annotations

from functools import cache
from typing import Any

from kubernetes import client as k8s

from unimrg_api import cluster
from unimrg_api.digests import canonical_json
from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.job import API_VERSION, KIND
from unimrg_api.stages import STAGES, PodSize
from unimrg_operator.backends import children
from unimrg_operator.backends.base import Attempt, Manifest
from unimrg_operator.backends.environment import variables
from unimrg_operator.backends.profile import SiteProfile

USER = 65532
"""User and group of every process; the image has nothing that belongs to it."""
FORCED_DELETION = "kueue.x-k8s.io/safe-to-forcefully-delete"
"""Annotation for Kueue: a pod on a lost node may be given up, as an unreachable attempt is never waited for."""


def template(
    attempt: Attempt,
    profile: SiteProfile,
    *,
    node_rank: str | None = None,
    master_address: str = PodEnvironment.master_address,
) -> k8s.V1PodTemplateSpec:
    """Return the template of the attempt's pods. Raises UserError for a job that cannot be run here.

    `node_rank` is the path of the field that holds a pod's node rank, e.g. `metadata.labels['x/index']`; None: each
    has rank 0. `master_address` is the host of the pod with rank 0.
    """
    return k8s.V1PodTemplateSpec(
        metadata=k8s.V1ObjectMeta(labels=children.labels_of(attempt), annotations={FORCED_DELETION: "true"}),
        spec=_pod(attempt, profile, node_rank, master_address),
    )


def metadata(attempt: Attempt) -> k8s.V1ObjectMeta:
    """Return the metadata of the attempt's child. It goes with its job, if there is an object of that yet."""
    counters = attempt.restart_counters.model_dump(mode="json", by_alias=True)
    # Without blockOwnerDeletion, which would need a right on the job's finalizers in some clusters.
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": attempt.job.metadata.name,
        "uid": attempt.uid,
        "controller": True,
    }
    return k8s.V1ObjectMeta(
        name=children.child_name(attempt),
        namespace=attempt.namespace,
        labels=children.labels_of(attempt),
        annotations={
            cluster.SPEC_DIGEST_ANNOTATION: children.spec_digest(attempt.job),
            cluster.RESTART_COUNTERS_ANNOTATION: canonical_json(counters),
        },
        owner_references=[owner] if attempt.uid else None,
    )


def to_manifest(model: Any) -> Manifest:
    """Return a client's model as plain JSON values, without what is not set."""
    manifest: Manifest = _serializer().sanitize_for_serialization(model)
    return manifest


@cache
def _serializer() -> k8s.ApiClient:
    return k8s.ApiClient()


def _pod(attempt: Attempt, profile: SiteProfile, node_rank: str | None, master_address: str) -> k8s.V1PodSpec:
    row = STAGES[attempt.stage]
    on_gpus = row.pod_size(attempt.job) is PodSize.GPU
    tolerations = [k8s.V1Toleration(**item.model_dump()) for item in profile.tolerations]
    return k8s.V1PodSpec(
        restart_policy="Never",  # attempts are counted by the operator
        service_account_name=attempt.job.spec.trainer.service_account_name,
        automount_service_account_token=False,
        enable_service_links=False,
        termination_grace_period_seconds=row.grace(attempt.job),
        priority_class_name=profile.priority_class_name,
        image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in profile.image_pull_secrets] or None,
        node_selector=(profile.node_selector or None) if on_gpus else None,
        tolerations=(tolerations or None) if on_gpus else None,
        affinity=_elsewhere(attempt.restart_counters.excluded_nodes),
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            run_as_group=USER,
            fs_group=USER,
            fs_group_change_policy="OnRootMismatch",  # a large volume is not walked through at every start
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[_container(attempt, profile, variables(attempt, profile, node_rank, master_address))],
        volumes=_volumes(attempt, profile),
    )


def _container(attempt: Attempt, profile: SiteProfile, environ: list[k8s.V1EnvVar]) -> k8s.V1Container:
    image = attempt.job.spec.image or profile.image
    if image is None:
        raise UserError(
            "neither the job nor the site profile names an image",
            remedy="set spec.image, or have the cluster's administrator set image in the site profile",
        )
    environment = PodEnvironment()
    mounts = {"run": environment.run_dir, "cache": environment.cache, "tmp": "/tmp", "shm": "/dev/shm"}
    return k8s.V1Container(
        name=cluster.TRAINER_CONTAINER,
        image=image,
        image_pull_policy=profile.image_pull_policy,
        command=["unimrg-launch", attempt.stage],
        env=environ,
        # No probes: a pod that is not ready is not published under the name by which the others find it.
        ports=[
            k8s.V1ContainerPort(
                name=cluster.PROGRESS_PORT,
                container_port=ports(attempt.uid, attempt.train_attempt)[1],
                protocol="TCP",
            )
        ],
        resources=_resources(attempt, profile),
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        termination_message_path=str(environment.termination_log),
        termination_message_policy="File",
        volume_mounts=[
            *(k8s.V1VolumeMount(name=name, mount_path=str(path)) for name, path in mounts.items()),
            *(
                k8s.V1VolumeMount(
                    name=f"volume-{index}",
                    mount_path=volume.mount_path,
                    read_only=volume.read_only == "Always" or None,
                )
                for index, volume in enumerate(attempt.job.spec.trainer.volumes)
            ),
        ],
    )


def _volumes(attempt: Attempt, profile: SiteProfile) -> list[k8s.V1Volume]:
    def folder(name: str, size: str | None = None, medium: str | None = None) -> k8s.V1Volume:
        return k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=size, medium=medium))

    return [
        folder("run"),
        folder("cache", profile.cache_size),
        folder("tmp"),
        folder("shm", profile.shared_memory, "Memory"),
        *(
            k8s.V1Volume(
                name=f"volume-{index}",
                persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(
                    claim_name=volume.claim_name, read_only=volume.read_only == "Always" or None
                ),
            )
            for index, volume in enumerate(attempt.job.spec.trainer.volumes)
        ),
    ]


def _resources(attempt: Attempt, profile: SiteProfile) -> k8s.V1ResourceRequirements:
    size, known = STAGES[attempt.stage].pod_size(attempt.job), profile.resources
    by_size = {PodSize.SMALL: known.small_pod, PodSize.CPU: known.cpu_pod, PodSize.GPU: known.gpu_pod}
    amounts = by_size[size].model_dump()
    gpus = attempt.job.spec.trainer.gpus_per_node
    devices = {profile.gpu_resource: str(gpus)} if size is PodSize.GPU else {}
    return k8s.V1ResourceRequirements(requests=amounts, limits={**amounts, **devices})


def _elsewhere(nodes: list[str]) -> k8s.V1Affinity | None:
    """Keep pods away from nodes on which earlier attempts failed."""
    if not nodes:
        return None
    others = k8s.V1NodeSelectorRequirement(key="kubernetes.io/hostname", operator="NotIn", values=sorted(nodes))
    selector = k8s.V1NodeSelector(node_selector_terms=[k8s.V1NodeSelectorTerm(match_expressions=[others])])
    affinity = k8s.V1NodeAffinity(required_during_scheduling_ignored_during_execution=selector)
    return k8s.V1Affinity(node_affinity=affinity)
