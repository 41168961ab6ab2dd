"""The phase of a job, one word for people, and the reason of the condition that explains it."""

from __future__ import annotations

from collections.abc import Mapping

from unimrg_api.stages import STAGES, JobPhase
from unimrg_api.status import Condition, JobStatus, StageState
from unimrg_operator.core.stages import Result, Stages

TERMINAL: tuple[JobPhase, ...] = ("Succeeded", "Failed")
"""Nothing follows these."""

_BY_STATE: dict[StageState, JobPhase] = {"Running": "Running", "Restarting": "Restarting"}


def is_terminal(status: JobStatus) -> bool:
    """Whether a job has ended, for good."""
    return status.phase in TERMINAL


def phase_of(stages: Stages, result: Result | None) -> JobPhase:
    """Return the phase. It is terminal once no stage is left."""
    stage = stages.current
    if stage is None:
        assert result is not None, "all stages are over, and there is no result"
        return "Succeeded" if result.succeeded else "Failed"
    if all(stage.attempt == 0 for stage in stages.known):
        return "Pending"
    if stage.state == "Suspended":
        return "Suspended"
    return STAGES[stage.name].phase or _BY_STATE.get(stage.state, "Starting")


def reason_of(phase: JobPhase, conditions: Mapping[str, Condition]) -> str:
    """Return the reason that explains a phase: why the job is not accepted, how it ended, or whether it runs."""
    ended = conditions.get("Complete") or conditions.get("Failed")
    if ended is not None:
        return ended.reason
    accepted = conditions["Accepted"]
    if accepted.status == "False" or phase == "Pending":
        return accepted.reason
    return conditions["Running"].reason
