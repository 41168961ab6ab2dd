"""The output of `decide`: the status to write, then the actions to execute in this order; each is idempotent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.core.texts import shortest_wait


@dataclass(frozen=True)
class CreateChild:
    """Create the child for `attempt` of a stage; an existing one that the job owns counts as created."""

    stage: StageName
    attempt: int
    train_attempt: int
    """Attempt of the training that it belongs to: UNIMRG_ATTEMPT of its pods. 1 before the first one."""
    restart_counters: RestartCounters
    """Stored on the child as an annotation."""


@dataclass(frozen=True)
class DeleteChild:
    """Delete a child; garbage collection deletes its pods, with their grace period."""

    stage: StageName
    name: str
    uid: str


@dataclass(frozen=True)
class DeletePod:
    """Delete a pod by force (grace period 0): its node is lost or does not terminate it."""

    name: str
    uid: str


Action = CreateChild | DeleteChild | DeletePod


@dataclass(frozen=True)
class Plan:
    """What one policy contributes: actions, and the seconds until more can be due without any event."""

    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.actions + other.actions, shortest_wait(self.requeue_after, other.requeue_after))


@dataclass(frozen=True)
class Event:
    """An event about the job, for `kubectl describe`; published after the status of its decision was written."""

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
    """Seconds after which to reconcile again without any event; None: only when something changes."""
