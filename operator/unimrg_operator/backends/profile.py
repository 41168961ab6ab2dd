"""The site profile: what depends on the cluster and not on the experiment, in one small file of its administrator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import FieldRule, Spec, Violation
from unimrg_api.load import read_model
from unimrg_api.spec_platform import OBJECT_NAME_PATTERN
from unimrg_api.yaml_source import read_yaml

_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

Cpu = Annotated[
    str, Field(pattern=r"^([1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}m)$", max_length=16)
]
Bytes = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(\.[0-9]{1,3})?(M|G|T|Mi|Gi|Ti)$", max_length=16)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)]

_SET_BY_US = re.compile(
    r"(UNIMRG|PET|MASTER|TORCHELASTIC)_.*|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK|HOME|USER"
)
_SECRET = re.compile(
    r"(?i)AWS_(ACCESS|SECRET|SESSION).*|MLFLOW_TRACKING_USERNAME|(.*_)?(TOKEN|PASSWORD|SECRET|API_KEY)"
)


class Toleration(Spec):
    """A taint that GPU pods put up with."""

    key: LabelKey | None = None
    """Key of the taint. Absent, with operator Exists: every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the taint's value has to be `value` (Equal) or may be any (Exists)."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Absent: every effect."""

    rules = (
        FieldRule(
            "value",
            "a toleration with operator Exists takes no value",
            "take it out, or use operator: Equal",
            lambda item: item.operator == "Equal" or not item.value,
            "self.operator == 'Equal' || !has(self.value) || self.value == ''",
        ),
        FieldRule(
            "key",
            "a toleration with operator Equal needs the taint's key",
            "name it, or use operator: Exists",
            lambda item: item.operator == "Exists" or item.key is not None,
            "self.operator == 'Exists' || has(self.key)",
        ),
    )


class PodResources(Spec):
    """What one pod asks for, and at the same time the most that it gets.

    A limit on CPUs makes the number of threads the same on every node, and bit-exact resume needs that.
    """

    cpu: Cpu
    """CPU cores, as a text: "8", "0.5" or "500m"."""
    memory: Bytes
    """Memory, as a text with a unit: "900Gi". What lies in /dev/shm counts."""


class ResourcesSpec(Spec):
    """What pods ask for, by what they do."""

    gpu_pod: PodResources = PodResources(cpu="16", memory="128Gi")
    """Pods that train or evaluate on GPUs."""
    cpu_pod: PodResources = PodResources(cpu="2", memory="4Gi")
    """Pods that prepare data, and those that train or evaluate without GPUs."""
    small_pod: PodResources = PodResources(cpu="1", memory="1Gi")
    """Pods that check a job or finish it."""


Environment = Annotated[dict[VariableName, Annotated[str, Field(max_length=4096)]], Field(max_length=64)]


class RdmaSpec(Spec):
    """What pods that train need where the job says `trainer.rdma: Always`."""

    resource: Annotated[str, Field(pattern=_LABEL_KEY, max_length=253)]
    """What the cluster calls an RDMA device, e.g. rdma/hca_shared_devices_a."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of them a pod gets."""
    environment: Environment = Field(default={})
    """Environment variables of these pods, e.g. NCCL_IB_HCA; they win over the profile's own."""
    host_network: Literal["Always", "Never"] = "Never"
    """Whether these pods use the node's network. Always needs namespaces under Pod Security `privileged`, and with
    PyTorchJob there is one such pod on a node, for Training Operator gives all of them the same port."""
    ipc_lock: Literal["Always", "Never"] = "Always"
    """Whether the right to lock memory comes with the capability IPC_LOCK. It acts for root only, so all pods of such a
    job run as root, in namespaces under Pod Security `privileged`. Never: the nodes' container runtime sets no limit on
    locked memory (LimitMEMLOCK=infinity), and pods stay what they are."""

    def violations(self) -> Iterator[Violation]:
        """No variable is one that the operator or a Secret sets."""
        yield from _forbidden(self.environment)


class SiteProfile(Spec):
    """What depends on the cluster and not on the experiment. Every field has a default."""

    backend: Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=63)] = "pytorchjob"
    """What makes the pods of a training where the job does not say: pytorchjob, jobset, or an entry point of the group
    unimrg.backends."""
    image: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)] | None = None
    """Image of jobs that name none."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8)] = Field(default=[])
    """Names of the Secrets, in the jobs' namespace, with which images are pulled."""
    gpu_resource: Annotated[str, Field(pattern=_LABEL_KEY, max_length=253)] = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default={})
    """Labels of the nodes for GPU pods."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default=[])
    """Taints of the nodes for GPU pods."""
    resources: ResourcesSpec = ResourcesSpec()
    """CPUs and memory of a pod."""
    shared_memory: Bytes = "64Gi"
    """Most that lies in /dev/shm; never more than the pod's memory."""
    cache_size: Bytes = "50Gi"
    """Most that lies in /cache: weights, decoded data."""
    environment: Environment = Field(default={})
    """Further environment variables of every pod, e.g. NCCL_SOCKET_IFNAME. No secrets."""
    rdma: RdmaSpec | None = None
    """How GPUs of different nodes talk over InfiniBand or RoCE. Absent: jobs that ask for it are refused."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of every pod."""

    def violations(self) -> Iterator[Violation]:
        """No variable is one that the operator or a Secret sets."""
        yield from _forbidden(self.environment)


def _forbidden(environment: Iterable[str]) -> Iterator[Violation]:
    for name in environment:
        path = f"environment.{name}"
        if _SET_BY_US.fullmatch(name):
            yield Violation(path, f"{name} is set by the operator", "take it out", secret=True)
        elif _SECRET.fullmatch(name):
            remedy = "put it into a Secret that the job names in spec.storage or spec.tracking.mlflow"
            yield Violation(path, f"{name} is a secret, and this file is not", remedy, secret=True)


def load_profile(path: Path | None) -> SiteProfile:
    """Read a profile from a YAML (or JSON) file; None, or a file without content, is the profile of defaults.

    Raises UserError: JobError with all problems, each with its line and column; exit code INPUT_MISSING where
    the file cannot be read.
    """
    if path is None:
        return SiteProfile()
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"the site profile {path} cannot be read: {error.strerror or error}"
        raise UserError(message, remedy="check its path", exit_code=ExitCode.INPUT_MISSING) from None
    if all(line.split(b"#")[0].strip() in (b"", b"---") for line in data.splitlines()):
        return SiteProfile()
    document = read_yaml(data)
    return read_model(SiteProfile, document, path)
