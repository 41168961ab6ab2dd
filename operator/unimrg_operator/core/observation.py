"""What is known about a job and its children at one moment: everything that `decide` may look at."""

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
    """The UniMRGJob object. `job` is None where it does not parse; then `problem` says why."""

    name: str
    namespace: str
    uid: str
    generation: int
    job: UniMRGJob | None
    status: JobStatus
    problem: str = ""
    deleting: bool = False


ChildState = Literal["Active", "Suspended", "Succeeded", "Failed"]
"""Active: it has pods or makes them. Suspended: it has none until somebody, e.g. a queue, resumes it."""


@dataclass(frozen=True)
class Child:
    """An object that runs one attempt of a stage, of whatever kind; it belongs to the job by owner uid."""

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
    """What recent Warning events about the child say (quota, Pod Security). Shown, never decided on."""
    resumed: float | None = None
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
    """Name of the child that it belongs to, whatever objects stand between them."""
    node_rank: int
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    created: float
    node: str | None = None
    ip: str | None = None
    deleting_since: float | None = None
    """When it was asked to end (deletionTimestamp less its grace period); None if it was not."""
    deleting_seen: float | None = None
    """When this process first saw that it was, by its own clock; None if it does not know, as after a restart."""
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
class Report:
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
    report: Report | None = None
    """The newest report; None if no pod answered since the operator started."""
    fault: tuple[str, str] | None = None
    """Why children cannot be made, as (reason, message): BackendMissing, NameConflict, ImageMissing. From the shell."""
    predecessors: tuple[str, ...] = ()
    """Names of live pods of an earlier job of the same name: they may still commit to the same prefix."""
