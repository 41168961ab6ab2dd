"""The input of `decide`: a job, its children and their pods at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unimrg_api.job import UniMRGJob
from unimrg_api.progress import Progress
from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_api.termination import TerminationRecord


@dataclass(frozen=True)
class ObservedJob:
    """The UniMRGJob object. `parsed` is None where it does not parse; then `parse_error` says why."""

    name: str
    namespace: str
    uid: str
    generation: int
    parsed: UniMRGJob | None
    status: JobStatus
    parse_error: str = ""
    deleting: bool = False


ChildState = Literal["Active", "Suspended", "Succeeded", "Failed"]
"""Active: it has pods or creates them. Suspended: it has none until it is resumed, e.g. by Kueue."""


@dataclass(frozen=True)
class Child:
    """The Kubernetes object that runs one attempt of a stage (a Job, a PyTorchJob, …); the job owns it by uid."""

    name: str
    uid: str
    stage: StageName
    attempt: int
    created: float
    """Unix time in seconds, as every time here."""
    state: ChildState
    restart_counters: RestartCounters = field(default_factory=RestartCounters)
    deleting: bool = False
    warnings: tuple[str, ...] = ()
    """Messages of recent Warning events about the child. Shown in conditions; no decision depends on them."""
    resumed_at: float | None = None
    """When it was last resumed after a suspension; None: never."""


@dataclass(frozen=True)
class Terminated:
    """How the trainer's container ended."""

    exit_code: int
    reason: str
    """As the container runtime reports it: Completed, Error, OOMKilled."""
    finished: float
    record: TerminationRecord


@dataclass(frozen=True)
class Pod:
    """A pod of a child."""

    name: str
    uid: str
    child: str
    """Name of the child that owns it, directly or through other objects."""
    node_rank: int
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    created: float
    node: str | None = None
    scheduled: float | None = None
    """When it got its node; None: it has none, or that is not known."""
    started: float | None = None
    """When the trainer's container started; None: it has not, or that is not known."""
    deleting_since: float | None = None
    """When its deletion was requested (deletionTimestamp minus grace period); None if it was not."""
    deletion_observed_at: float | None = None
    """When this operator process first observed that, by its own clock; None if it has not observed it."""
    grace_seconds: int = 30
    memory_limit: str = ""
    """Memory limit of the trainer's container, e.g. `4Gi`; empty if it has none."""
    waiting_reason: str = ""
    """CreateContainerConfigError, ImagePullBackOff, …; or Unschedulable."""
    waiting_message: str = ""
    disruption: str = ""
    """Reason of the condition DisruptionTarget if it is True, or status.reason Evicted/NodeLost."""
    terminated: Terminated | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node on which pods of the job are, or were."""

    name: str
    ready: Literal["True", "False", "Unknown"]
    """Unknown: its kubelet does not answer."""
    since: float
    """When `ready` last changed."""
    seen_since: float = 0.0
    """Since when this operator process sees it so without a gap, by its own clock."""


@dataclass(frozen=True)
class ProgressReport:
    """Progress that was pulled from the pod of node 0."""

    pod_uid: str
    received: float
    progress: Progress


@dataclass(frozen=True)
class Observation:
    """One job, its children of every stage, and their pods."""

    job: ObservedJob
    children: tuple[Child, ...] = ()
    pods: tuple[Pod, ...] = ()
    report: ProgressReport | None = None
    """The newest report; None if no pod answered since the operator started."""
    creation_error: tuple[str, str] | None = None
    """Why children cannot be created, as (reason, message): BackendMissing, NameConflict, ImageMissing; see `app/`."""
    previous_job_pods: tuple[str, ...] = ()
    """Names of live pods of an earlier job of the same name: they may still write checkpoints to the same prefix."""
    complete: bool = True
    """Whether children and pods are all that there are, as they are now; if not, nothing follows from any of this."""
    nodes: tuple[Node, ...] = ()
    """Nodes of the pods; empty where the operator has no right to see nodes."""
