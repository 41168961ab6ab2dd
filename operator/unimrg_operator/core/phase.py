"""The phase of a job, one word for people, and the reason of the condition that explains it."""

from __future__ import annotations

from collections.abc import Mapping

from unimrg_api.stages import StageName
from unimrg_api.status import Condition, JobPhase, JobStatus, StageState
from unimrg_operator.core.stages import Stages, Verdict

TERMINAL: tuple[JobPhase, ...] = ("Succeeded", "Failed")
"""Nothing follows these."""

_OF_STAGE: dict[StageName, JobPhase] = {
    "check": "Checking",
    "prepare": "Preparing",
    "evaluate": "Evaluating",
    "finish": "Finishing",
}
_OF_TRAINING: dict[StageState, JobPhase] = {"Running": "Running", "Restarting": "Restarting"}


def is_terminal(status: JobStatus) -> bool:
    """Whether a job has ended, for good."""
    return status.phase in TERMINAL


def phase_of(stages: Stages, verdict: Verdict | None) -> JobPhase:
    """Return the phase. It is terminal once no stage is left."""
    stage = stages.current
    if stage is None:
        assert verdict is not None, "all stages are over, and there is no verdict"
        return "Succeeded" if verdict.succeeded else "Failed"
    if stage.name == "check" and stage.attempt == 0:
        return "Pending"
    return _OF_STAGE.get(stage.name) or _OF_TRAINING.get(stage.state, "Starting")


def reason_of(phase: JobPhase, conditions: Mapping[str, Condition]) -> str:
    """Return the reason that explains a phase: why the job is not accepted, how it ended, or whether it runs."""
    ended = conditions.get("Complete") or conditions.get("Failed")
    if ended is not None:
        return ended.reason
    accepted = conditions["Accepted"]
    if accepted.status == "False" or phase == "Pending":
        return accepted.reason
    return conditions["Running"].reason
