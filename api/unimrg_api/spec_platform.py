"""The part of a job that says where it runs and where its data, checkpoints and records are."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import LINE_PATTERN, VISIBLE, FieldRule, Spec, Uri

StrategyName = Literal["DDP", "ZeRO1", "ZeRO2", "ZeRO3", "FSDP2"]

MAXIMUM_NODES = 64
MAXIMUM_GPUS = 16
MAXIMUM_PROCESSES = 64

OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""Names of most objects of a cluster (RFC 1123)."""
LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""Names of objects that are also values of labels."""
_PORT = "([1-5]?[0-9]{1,4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))"
"""A number from 0 to 65535."""
ENDPOINT_PATTERN = rf"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:{_PORT})?/?$"
_NUMERIC_HOST = r"^https?://(\[|[0-9.]+([:/]|$))"
TRACKING_PATTERN = rf"^(https?://[^\x00-\x20@]+|sqlite:///{VISIBLE}+)$"

REGION_PATTERN = r"^[a-z0-9-]+$"
MOUNT_PATTERN = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"

POD_FOLDERS = ("/cache", "/dev", "/run/unimrg", "/tmp")
"""What pods use themselves: no volume of a job is mounted at, above or below one of these."""


def _apart_from_pods_folders(volume: str) -> str:
    """Return, in CEL, whether a volume lies apart from what pods use themselves."""
    folders = [f"{folder}/" for folder in POD_FOLDERS]
    return (
        f"{folders}.all(folder, !({volume}.mountPath + '/').startsWith(folder) "
        f"&& !folder.startsWith({volume}.mountPath + '/'))"
    )


def mounted_in_cel(volume: str) -> str:
    """Return, in CEL, whether a volume's path is right by itself: rules about several say nothing about one that is
    not."""
    return f"({volume}.mountPath.matches(r'{MOUNT_PATTERN}') && {_apart_from_pods_folders(volume)})"


PROFILED_STEPS = 3
"""Steps that a profile records."""


class DiagnosticsSpec(Spec):
    """Looks into a training that change nothing of what is trained."""

    gradient_norms_every: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Steps between two measurements of each objective's own gradient norm. One costs a forward and a backward for
    each objective. Absent: none."""
    profile_step: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """First of three steps that torch.profiler records on rank 0; the trace lies beside the logs. Absent: none."""
    deterministic: Literal["Always", "Never"] = "Never"
    """Whether only kernels are used that give the same bits every time; slower, and an error where there is none.
    On CPUs they are used anyway."""


class TrainerSpec(Spec):
    """The processes that train."""

    nodes: Annotated[int, Field(ge=1, le=MAXIMUM_NODES)] = 1
    """Pods, each on a node of its own. `unimrg run` runs one."""
    gpus_per_node: Annotated[int, Field(ge=0, le=MAXIMUM_GPUS)] = 8
    """GPUs of each pod, one process per GPU. 0: processes on the CPU, see `processesPerNode`."""
    processes_per_node: Annotated[int, Field(ge=1, le=MAXIMUM_PROCESSES)] = 1
    """Processes of each pod where there are no GPUs. `unimrg run` takes `--processes`."""
    strategy: StrategyName | None = None
    """How weights, gradients and AdamW's moments are spread over the processes; what is trained stays the same, and a
    job may change it between attempts. DDP: whole on each. ZeRO1, ZeRO2, ZeRO3: DeepSpeed divides moments, and
    gradients, and weights too. FSDP2: torch divides all three. Absent: DDP on one GPU, on CPUs and for small models;
    for published sizes ZeRO1 on one node, FSDP2 on several."""
    service_account_name: Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)] = "default"
    """Service account of the job's pods, for stores that know it. They get no token for the cluster's API."""
    volumes: Annotated[list[VolumeSpec], Field(max_length=8)] = Field(default=[])
    """Volumes that every pod mounts, so that `file://` works on a cluster."""
    compile: Literal["Always", "Never"] = "Never"
    """Whether torch.compile compiles the model's blocks: the first step takes minutes longer, the others less long.
    It needs a C compiler in the image."""
    rdma: Literal["Always", "Never"] = "Never"
    """Whether GPUs of different nodes talk over InfiniBand or RoCE. How that is done on a cluster (devices, NCCL's
    variables, network, rights) its site profile says; without that, such a job is refused."""
    diagnostics: DiagnosticsSpec = DiagnosticsSpec.model_construct()
    """What is measured beyond losses and times."""

    @property
    def processes(self) -> int:
        """Processes that train, over all nodes."""
        return self.nodes * (self.gpus_per_node or self.processes_per_node)

    rules = (
        FieldRule(
            "rdma",
            "RDMA is for GPUs, and the job has none",
            "set gpusPerNode, or use rdma: Never",
            lambda trainer: trainer.rdma == "Never" or trainer.gpus_per_node > 0,
            "self.rdma == 'Never' || self.gpusPerNode > 0",
        ),
        FieldRule(
            "volumes",
            "two volumes are mounted over each other",
            "mount them side by side",
            lambda trainer: (
                not any(_overlap(one.mount_path, other.mount_path) for one, other in combinations(trainer.volumes, 2))
            ),
            f"self.volumes.exists(volume, !{mounted_in_cel('volume')}) || "
            "self.volumes.all(volume, self.volumes.exists_one(other, "
            "(volume.mountPath + '/').startsWith(other.mountPath + '/')))",
        ),
    )


class QueueSpec(Spec):
    """A queue of Kueue. Everything that the job creates waits in it, and starts once there is quota."""

    name: Annotated[str, Field(pattern=LABEL_PATTERN, max_length=63)]
    """Name of the LocalQueue, in the job's namespace. Its quota has to cover all that pods ask for: CPU, memory, GPUs,
    RDMA devices."""
    priority_class: Annotated[str, Field(pattern=LABEL_PATTERN, max_length=63)] | None = None
    """Name of a WorkloadPriorityClass: who comes first, and who is pushed out, to go on from its checkpoint later. A
    change counts from the next attempt or stage. Absent: priority 0."""


NEVER_DELETED = 2
"""The newest commits that stay whatever the job says: the newest may turn out damaged when it is read."""


class CheckpointSpec(Spec):
    """Where and when the state of training is kept."""

    uri: Uri
    """Prefix of the run: checkpoints, records, logs and results lie under it. One run has one prefix."""
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    """Optimiser steps between commits. The last step, and an orderly stop, commit as well."""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 3
    """Newest commits to keep; two stay whatever this says."""
    keep_every: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimiser steps: of every so many, the first commit is kept for good. Absent: only the newest are kept."""
    resume: Literal["IfPresent", "Never", "Required"] = "IfPresent"
    """What to do about commits at `uri`: go on from the newest that verifies, if there is one (IfPresent);
    refuse to run where there are any (Never); refuse to run where there is none (Required)."""
    grace_seconds: Annotated[int, Field(ge=30, le=3600)] = 300
    """Seconds that a stopping process has for its last commit."""


class SecretSpec(Spec):
    """A secret of the job's namespace, by name; its values never enter a job."""

    secret_name: Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
    """Name of the Secret."""


class StorageSpec(Spec):
    """The object store behind every `s3://` URI of the job."""

    endpoint: Annotated[str, Field(pattern=ENDPOINT_PATTERN, max_length=512)] | None = None
    """Address of the service: scheme, host and port. Absent: AWS_ENDPOINT_URL of the environment, else AWS itself."""
    region: Annotated[str, Field(pattern=REGION_PATTERN, max_length=63)] | None = None
    """Region. Absent: that of the environment, else us-east-1."""
    addressing: Literal["Auto", "Path", "Virtual"] = "Auto"
    """Where the bucket's name goes: into the path, or into the host name (Virtual). Auto: what botocore chooses."""
    checksums: Literal["WhenSupported", "WhenRequired"] = "WhenSupported"
    """Checksums that botocore adds to requests and verifies in replies. WhenSupported: as many as it can, unless
    AWS_REQUEST_CHECKSUM_CALCULATION or AWS_RESPONSE_CHECKSUM_VALIDATION of the environment says otherwise. Stores that
    do not know them need WhenRequired."""
    credentials: SecretSpec | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if need be) for a
    cluster. Absent: the identity of the service account. `unimrg run` takes the environment's."""

    rules = (
        FieldRule(
            "addressing",
            "a bucket's name cannot stand in front of a numeric address",
            "use Path, or an endpoint with a host name",
            lambda storage: storage.addressing != "Virtual" or not re.search(_NUMERIC_HOST, storage.endpoint or ""),
            f"self.addressing != 'Virtual' || !has(self.endpoint) || !self.endpoint.matches(r'{_NUMERIC_HOST}')",
        ),
    )


class VolumeSpec(Spec):
    """A volume that every pod of the job mounts."""

    claim_name: Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
    """Name of the PersistentVolumeClaim."""
    mount_path: Annotated[str, Field(pattern=MOUNT_PATTERN, max_length=512)]
    """Where it is mounted; `file://` URIs below it work on a cluster."""
    read_only: Literal["Always", "Never"] = "Never"
    """Whether it is mounted for reading only."""

    rules = (
        FieldRule(
            "mountPath",
            f"pods use {', '.join(POD_FOLDERS)} themselves",
            "mount it elsewhere, e.g. at /mnt/data",
            lambda volume: not any(_overlap(volume.mount_path, folder) for folder in POD_FOLDERS),
            _apart_from_pods_folders("self"),
        ),
    )


class MlflowSpec(Spec):
    """A run in MLflow. It is an aid: training never waits for it and does not fail because of it."""

    uri: Annotated[str, Field(pattern=TRACKING_PATTERN, max_length=2048)] | None = None
    """Tracking server, without credentials in it; a cluster needs one. Absent: a SQLite file, beside the checkpoints of
    a `file://` run, and for one in a bucket on the machine that runs it, below ~/.local/state/unimrg."""
    experiment: Annotated[str, Field(pattern=LINE_PATTERN, max_length=256)] = "unimrg"
    """Name of the experiment; it is created if it does not exist."""
    run_name: Annotated[str, Field(pattern=LINE_PATTERN, max_length=256)] | None = None
    """Name of the run. Absent: the job's name."""
    credentials: SecretSpec | None = None
    """Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for a
    cluster. `unimrg run` takes the environment's."""


class TrackingSpec(Spec):
    """Where losses and scores are recorded."""

    mlflow: MlflowSpec = MlflowSpec.model_construct()
    """A run in MLflow."""


class RunPolicySpec(Spec):
    """When an attempt is given up, and how often a cluster starts another. `unimrg run` never restarts by itself."""

    stall_timeout_seconds: Annotated[int, Field(ge=60, le=86_400)] = 900
    """Seconds without progress after which an attempt is ended; on a cluster it is restarted. Between two steps, after
    the first one, a third of it, but at least ten times the slowest step so far."""
    max_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """On a cluster, restarts, per stage, after failures of the program itself. May be changed."""
    max_infra_restarts: Annotated[int, Field(ge=0, le=1000)] = 20
    """On a cluster, restarts, per stage, after failures of machines, networks and stores. May be changed."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """On a cluster, seconds before a restart; doubled with every failure in a row without a new commit."""
    max_backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600
    """On a cluster, most seconds before a restart."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """On a cluster, seconds for which training may run, over all its attempts; then the job fails. Only time in which
    all pods of an attempt run counts: not that in a queue, in suspension, or between attempts. Absent: no deadline.
    May be changed."""
    start_timeout_seconds: Annotated[int, Field(ge=60, le=604_800)] = 1800
    """On a cluster, seconds for which an attempt may hold nodes before all its pods run; then it is given up and
    restarted, counted against `maxInfraRestarts`. An attempt of which no pod has a node waits as long as it takes."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] = 604_800
    """On a cluster, seconds after the job's end at which its child objects and their pods are deleted, logs included;
    the job itself stays. May be changed."""
    keep_failed_pod_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """On a cluster, seconds for which the pods of a failed attempt are kept for their logs. Absent: those of the last
    two failed attempts of each stage are."""

    rules = (
        FieldRule(
            "maxBackoffSeconds",
            "less than the pause before the first restart",
            "use at least backoffSeconds, or lower that",
            lambda policy: policy.max_backoff_seconds >= policy.backoff_seconds,
            "self.maxBackoffSeconds >= self.backoffSeconds",
        ),
    )


def _overlap(one: str, other: str) -> bool:
    """Whether one folder is the other, or lies in it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
