"""Suspension by the user, `spec.suspend`: what runs is asked to end, and nothing is created until the job is resumed.

The attempt's end is recorded like any other before its child is deleted; its pods save a checkpoint within their grace
period, and the next attempt goes on from there. No budget is charged, and no time limit runs.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import JobPhase
from unimrg_api.status import AttemptEnd
from unimrg_operator.core.lookup import unfinished_children
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.texts import format_time

REASON = "Suspended"


def suspension_end(now: float) -> AttemptEnd:
    """Return the end of an attempt that runs when its job is suspended."""
    message = "spec.suspend is true; it saves a checkpoint and ends, and the next attempt goes on from there"
    return AttemptEnd(time=format_time(now), reason=REASON, message=message, action="Suspend")


def suspension_phase(observation: Observation, job: UniMRGJob) -> JobPhase:
    """Return the phase of a job that the user has suspended: Suspended once nothing of it is left that can run."""
    return "Suspending" if unfinished_children(observation, job) else "Suspended"
