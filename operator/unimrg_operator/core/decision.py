"""What is to be done about a job: values that the shell carries out in this order, none of them twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, RestartCounters


@dataclass(frozen=True)
class CreateChild:
    """Create the child that is `attempt` of a stage; one that exists and is ours is the same as success."""

    stage: StageName
    attempt: int
    train_attempt: int
    """Attempt of the training that it belongs to: UNIMRG_ATTEMPT of its pods. 1 before there is one."""
    restart_counters: RestartCounters
    """Goes onto the child as an annotation."""


@dataclass(frozen=True)
class DeleteChild:
    """Delete a child, and through garbage collection its pods, with their grace period."""

    stage: StageName
    name: str
    uid: str


@dataclass(frozen=True)
class DeletePod:
    """Delete a pod at once (grace period 0): its node is lost or does not end it."""

    name: str
    uid: str


Action = CreateChild | DeleteChild | DeletePod


@dataclass(frozen=True)
class Event:
    """An event about the job, for `kubectl describe`. It goes out when the status that goes with it was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """The status is written first; actions follow only once it is."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing changes; None: only when something changes."""
