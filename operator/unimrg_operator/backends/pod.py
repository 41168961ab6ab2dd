"""The pod of an attempt: one template for all stages, fit for a namespace under Pod Security `restricted`.

Its environment holds the launcher's variables, and credentials by reference only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from kubernetes.client import ApiClient

from unimrg_api import cluster
from unimrg_api.digests import canonical_json
from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import process_spec
from unimrg_api.spec_platform import SecretSpec
from unimrg_api.stages import STAGES, PodSize
from unimrg_operator.backends import children, k8s
from unimrg_operator.backends.base import Attempt, Manifest
from unimrg_operator.backends.profile import RdmaSpec, SiteProfile

USER = 65532
"""User and group of every process; the image has nothing that belongs to it."""
ROOT = 0
"""User and group where memory is locked with a capability: a process of another user does not have it."""
FORCED_DELETION = "kueue.x-k8s.io/safe-to-forcefully-delete"
"""Annotation for Kueue: a pod on a lost node may be given up, as an unreachable attempt is never waited for."""
_STORAGE_KEYS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
_TRACKING_KEYS = {"MLFLOW_TRACKING_USERNAME": True, "MLFLOW_TRACKING_PASSWORD": True, "MLFLOW_TRACKING_TOKEN": True}
"""Variables that are keys of a Secret, and whether the Secret may lack them."""


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
    counters = attempt.restart_counters.model_dump(mode="json", by_alias=True, exclude_defaults=True)
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
        labels={**children.labels_of(attempt), **children.queue_labels(attempt)},
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
def _serializer() -> ApiClient:
    return ApiClient()


def _pod(attempt: Attempt, profile: SiteProfile, node_rank: str | None, master_address: str) -> k8s.V1PodSpec:
    row = STAGES[attempt.stage]
    on_gpus = row.pod_size(attempt.job) is PodSize.GPU
    tolerations = [k8s.V1Toleration(**item.model_dump()) for item in profile.tolerations]
    rdma, own_rdma = _rdma(attempt.job, profile), _pods_rdma(attempt, profile)
    # One user in all stages, or they could not write to each other's folders on a volume.
    user = ROOT if rdma is not None and rdma.ipc_lock == "Always" else USER
    on_hosts = own_rdma is not None and own_rdma.host_network == "Always"
    return k8s.V1PodSpec(
        host_network=True if on_hosts else None,
        dns_policy="ClusterFirstWithHostNet" if on_hosts else None,
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
            run_as_non_root=user != ROOT,
            run_as_user=user,
            run_as_group=user,
            fs_group=USER,
            fs_group_change_policy="OnRootMismatch",  # a large volume is not walked through at every start
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[_container(attempt, profile, _variables(attempt, profile, node_rank, master_address))],
        volumes=_volumes(attempt, profile),
    )


def _container(attempt: Attempt, profile: SiteProfile, environ: list[k8s.V1EnvVar]) -> k8s.V1Container:
    image = attempt.job.spec.image or profile.image
    if image is None:
        raise UserError(
            "neither the job nor the site profile names an image",
            remedy="set spec.image, or have the cluster's administrator set image in the site profile",
        )
    environment, rdma = PodEnvironment(), _pods_rdma(attempt, profile)
    mounts = {"run": environment.run_dir, "cache": environment.cache, "tmp": "/tmp", "shm": "/dev/shm"}
    if _cache_gib(attempt):
        mounts["data-cache"] = environment.data_cache
    return k8s.V1Container(
        name=cluster.TRAINER_CONTAINER,
        image=image,
        image_pull_policy=profile.image_pull_policy,
        command=["unimrg-launch", attempt.stage],
        env=environ,
        # No probes: a pod that is not ready is not published under the name by which the others find it.
        ports=[
            k8s.V1ContainerPort(
                name=cluster.PROGRESS_PORT, container_port=ports(attempt.uid, attempt.train_attempt)[1], protocol="TCP"
            )
        ],
        resources=_resources(attempt, profile),
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(
                drop=["ALL"], add=["IPC_LOCK"] if rdma is not None and rdma.ipc_lock == "Always" else None
            ),
        ),
        termination_message_path=str(environment.termination_log),
        termination_message_policy="File",
        volume_mounts=[
            *(k8s.V1VolumeMount(name=name, mount_path=str(path)) for name, path in mounts.items()),
            *(
                k8s.V1VolumeMount(
                    name=f"volume-{index}", mount_path=volume.mount_path, read_only=volume.read_only == "Always" or None
                )
                for index, volume in enumerate(attempt.job.spec.trainer.volumes)
            ),
        ],
    )


def _cache_gib(attempt: Attempt) -> int:
    """Return the size of the cache of shards, which training has alone; 0 for none."""
    return attempt.job.spec.data.reading.cache_gib if attempt.stage == "train" else 0


def _volumes(attempt: Attempt, profile: SiteProfile) -> list[k8s.V1Volume]:
    def folder(name: str, size: str | None = None, medium: str | None = None) -> k8s.V1Volume:
        return k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=size, medium=medium))

    return [
        folder("run"),
        folder("cache", profile.cache_size),
        # of a size of its own, with room for what is being written: a pod that exceeds one is evicted
        *([folder("data-cache", f"{size + 1}Gi")] if (size := _cache_gib(attempt)) else []),
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
    if (rdma := _pods_rdma(attempt, profile)) is not None:
        devices[rdma.resource] = str(rdma.count)
    return k8s.V1ResourceRequirements(requests=amounts, limits={**amounts, **devices})


def _rdma(job: UniMRGJob, profile: SiteProfile) -> RdmaSpec | None:
    """Return what a job needs for RDMA; None if it uses none. Raises UserError where the site has none."""
    if job.spec.trainer.rdma == "Never":
        return None
    if profile.rdma is None:
        raise UserError(
            "the job asks for RDMA (spec.trainer.rdma), and the site profile has no section rdma",
            remedy="use rdma: Never, or have the cluster's administrator add the section",
        )
    return profile.rdma


def _pods_rdma(attempt: Attempt, profile: SiteProfile) -> RdmaSpec | None:
    """Return what the pods of an attempt need for RDMA: those that talk to pods of other nodes."""
    return _rdma(attempt.job, profile) if STAGES[attempt.stage].every_node else None


def _elsewhere(nodes: list[str]) -> k8s.V1Affinity | None:
    """Keep pods away from nodes on which earlier attempts failed."""
    if not nodes:
        return None
    others = k8s.V1NodeSelectorRequirement(key="kubernetes.io/hostname", operator="NotIn", values=sorted(nodes))
    selector = k8s.V1NodeSelector(node_selector_terms=[k8s.V1NodeSelectorTerm(match_expressions=[others])])
    affinity = k8s.V1NodeAffinity(required_during_scheduling_ignored_during_execution=selector)
    return k8s.V1Affinity(node_affinity=affinity)


def environment_of(attempt: Attempt, master_address: str = PodEnvironment.master_address) -> PodEnvironment:
    """Return the launcher's variables. Node rank and pod address are not filled in: they differ between the pods.

    Raises UserError for a job that is too large to be handed to processes.
    """
    spec, row = attempt.job.spec, STAGES[attempt.stage]
    return PodEnvironment(
        job=attempt.job.metadata.name,
        uid=attempt.uid,
        attempt=str(attempt.train_attempt),
        spec=process_spec(attempt.job),
        nodes=row.nodes(attempt.job),
        processes=spec.trainer.gpus_per_node or spec.trainer.processes_per_node,
        master_address=master_address,
        stall_timeout=spec.run_policy.stall_timeout_seconds,
        grace=row.grace(attempt.job),
    )


def _variables(
    attempt: Attempt, profile: SiteProfile, node_rank: str | None, master_address: str
) -> list[k8s.V1EnvVar]:
    """Return the environment of the container; see `pod.template`. Raises UserError as `environment_of` does."""
    own = environment_of(attempt, master_address).to_environ()
    fields = {"UNIMRG_POD_IP": "status.podIP"}
    if node_rank is not None:
        fields[cluster.NODE_RANK_VARIABLE] = node_rank
    spec, rdma = attempt.job.spec, _pods_rdma(attempt, profile)
    site = profile.environment if rdma is None else {**profile.environment, **rdma.environment}
    return [
        *(_field(name, fields[name]) if name in fields else _literal(name, value) for name, value in own.items()),
        # Libraries look for a folder to write to and for the name of a user whom the image may not know.
        _literal("HOME", "/tmp"),
        _literal("USER", "unimrg"),
        *_from_secret(spec.storage.credentials, _STORAGE_KEYS),
        *_from_secret(spec.tracking.mlflow.credentials, _TRACKING_KEYS),
        *(_literal(name, value) for name, value in sorted(site.items())),
    ]


def _literal(name: str, value: str) -> k8s.V1EnvVar:
    # A kubelet would put other variables in place of $(NAME); it takes $$ for one $.
    return k8s.V1EnvVar(name=name, value=value.replace("$", "$$"))


def _field(name: str, path: str) -> k8s.V1EnvVar:
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path=path)))


def _from_secret(secret: SecretSpec | None, keys: dict[str, bool]) -> list[k8s.V1EnvVar]:
    """Return each key of a Secret as the variable of its name; `keys` says which of them may be missing."""
    if secret is None:
        return []
    found = []
    for key, optional in keys.items():
        source = k8s.V1SecretKeySelector(name=secret.secret_name, key=key, optional=optional or None)
        found.append(k8s.V1EnvVar(name=key, value_from=k8s.V1EnvVarSource(secret_key_ref=source)))
    return found
