"""Where an attempt stands in its queue: admitted, waiting with reason and position, or pushed out.

A queue (Kueue) creates no attempt and ends none: it suspends the child and resumes it. So a child that waits, or waits
again, has not failed and has used up nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.status import StageStatus
from unimrg_operator.core.lookup import children_of
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.core.texts import one_line, remaining

UNSEEN_SECONDS = 60
"""Age of a suspended child from which on it is reported that Kueue does not know it."""
LOOK_AGAIN_SECONDS = 30
"""How soon a position is determined again: it changes with what others do."""
COUNTED_POSITIONS = 20
"""Positions beyond share one message: each would be a write for every job that waits, whenever one is admitted."""

_NOT_TAKEN_IN = (
    "Kueue knows nothing of it: is Kueue installed, and is {kind} among integrations.frameworks of its configuration?"
)
_NOT_VISIBLE = (
    "why cannot be seen: the operator runs without --kueue (watch.kueue of the chart), or may not list workloads in "
    "this namespace"
)


@dataclass(frozen=True)
class Standing:
    """Where the newest attempt of a stage stands."""

    admitted: bool
    reason: str
    message: str
    requeue_after: float | None = None


def was_admitted(stage: StageStatus) -> bool:
    """Whether a stage's newest attempt has been resumed, or has had pods: what suspends it now takes something away."""
    return stage.resume_time is not None or bool(stage.pod_uids)


def standing(stage: StageStatus, observation: Observation, job: UniMRGJob, now: float) -> Standing | None:
    """Return where a stage's newest attempt stands; None where there is none that has not ended, or no queue."""
    child = next((child for child in children_of(observation, stage.name)[:1] if child.attempt == stage.attempt), None)
    if child is None or stage.attempt_end is not None:
        return None
    known = next((item for item in observation.workloads or () if item.child_uid == child.uid), None)
    name = known.queue if known is not None else job.spec.queue.name if job.spec.queue is not None else None
    if name is None:
        return None
    if child.state != "Suspended":
        return Standing(True, "QuotaReserved", f"{child.name} was admitted by the queue {name}")
    waits = f"{child.name} waits in the queue {name}"
    if observation.workloads is None:
        return Standing(False, "Evicted" if was_admitted(stage) else "QueueNotVisible", f"{waits}; {_NOT_VISIBLE}")
    if known is None:
        return _unseen(waits, child, now)
    if known.position is not None:
        waits += _place(known.position)
    why = "quota is reserved, it is about to start" if known.reserved else known.message
    if known.evicted or was_admitted(stage):
        message = one_line(f"{child.name} was pushed out of its place", known.evicted, waits, why)
        return Standing(False, "Evicted", message, LOOK_AGAIN_SECONDS)
    reason = "QueueNotFound" if known.inadmissible else "WaitingForQuota"
    return Standing(False, reason, one_line(waits, why), LOOK_AGAIN_SECONDS)


def _unseen(waits: str, child: Child, now: float) -> Standing:
    if left := remaining(child.created, UNSEEN_SECONDS, now):
        return Standing(False, "WaitingForQuota", f"{waits}, which has yet to take it in", left)
    return Standing(False, "QueueNotFound", one_line(waits, _NOT_TAKEN_IN.format(kind=child.kind or "its kind")))


def _place(number: int) -> str:
    """Return a place among those of this LocalQueue; the others of its ClusterQueue are in other namespaces."""
    where = f"at position {number}" if number <= COUNTED_POSITIONS else f"behind more than {COUNTED_POSITIONS} others"
    return f", {where} of this LocalQueue"
