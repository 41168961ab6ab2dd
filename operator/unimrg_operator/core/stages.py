"""The status of every stage, the current stage, and the job's result and phase.

Stage definitions and the rule for the result are in `unimrg_api.stages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, JobPhase, Outcome, StageName, is_skipped, result_of
from unimrg_api.status import AttemptEnd, CheckpointStatus, JobStatus, StageState, StageStatus
from unimrg_operator.core.accounting import settle
from unimrg_operator.core.attempts import StageUpdate, is_stage_terminal, update_stage, with_attempt_end
from unimrg_operator.core.deadline import REASON as DEADLINE_EXCEEDED
from unimrg_operator.core.lookup import pods_of, unfinished_children
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.queueing import was_admitted
from unimrg_operator.core.suspension import suspension_phase
from unimrg_operator.core.texts import format_time, one_line, parse_time, remaining, shortest_wait

_PHASES: dict[StageState, JobPhase] = {"Running": "Running", "Restarting": "Restarting", "Suspended": "Suspended"}


@dataclass(frozen=True)
class Stages:
    """Every stage of a job, in order."""

    all: tuple[StageStatus, ...]
    requeue_after: float | None = None
    """Seconds until a stage can change without any event."""

    def __getitem__(self, name: StageName) -> StageStatus:
        return next((stage for stage in self.all if stage.name == name), None) or StageStatus(name=name)

    @property
    def current(self) -> StageStatus | None:
        """The first stage that has not ended; None after the last."""
        return next((stage for stage in self.all if not is_stage_terminal(stage)), None)

    @property
    def outcomes(self) -> dict[StageName, Outcome]:
        """Outcomes of the stages that have ended."""
        return {stage.name: cast(Outcome, stage.state) for stage in self.all if is_stage_terminal(stage)}


@dataclass(frozen=True)
class Result:
    """The result of a job."""

    reason: str
    """`Succeeded`, or the reason of the failure."""
    message: str
    succeeded: bool


def update_stages(
    observed_status: JobStatus,
    observation: Observation,
    job: UniMRGJob,
    checkpoint: CheckpointStatus | None,
    now: float,
) -> Stages:
    """Return every stage, updated from the observation; `checkpoint` is the newest one that is known."""
    stages, order, children = Stages(()), list(STAGES), observation.children
    checkpoint_step = 0 if checkpoint is None else checkpoint.step
    for name, definition in STAGES.items():
        stage, wait = update_stage(observed_status.stage(name), observation, job, checkpoint, now)
        if stage.state == "Pending" and is_skipped(name, job, stages.outcomes, checkpoint_step):
            stage = StageStatus(name=name, state="Skipped")
        elif stage.state == "Pending" and any(order.index(child.stage) > order.index(name) for child in children):
            # its status was lost; a later stage has children, so this one succeeded
            stage = StageStatus(name=name, state="Succeeded")
        elif definition.time_limit_seconds is not None and decided_result(stages, job) is not None:
            since = stage.start_time or observed_status.stage(name).start_time
            stage, wait = _apply_time_limit(stage, wait, definition.time_limit_seconds, since, observation, job, now)
        stages = Stages((*stages.all, stage), shortest_wait(stages.requeue_after, wait))
    return stages


def decided_result(stages: Stages, job: UniMRGJob) -> Result | None:
    """Return the result of the job; None while it is undecided."""
    outcome = result_of(job, stages.outcomes)
    if outcome is None:
        return None
    if outcome == "Succeeded":
        return Result("Succeeded", "every stage succeeded", succeeded=True)
    failed = next(stage for stage in stages.all if stage.state == "Failed" and STAGES[stage.name].fails_job)
    reason, message = (failed.attempt_end.reason, failed.attempt_end.message) if failed.attempt_end else ("Unknown", "")
    return Result(STAGES[failed.name].failure_reason or reason, f"{failed.name}: {message}", succeeded=False)


def phase_of(stages: Stages, result: Result | None, observation: Observation, job: UniMRGJob) -> JobPhase:
    """Return the phase of a job; it is terminal once all stages have ended."""
    stage = stages.current
    if stage is None:
        assert result is not None, "all stages have ended, and there is no result"
        return "Succeeded" if result.succeeded else "Failed"
    if job.spec.suspend:
        return suspension_phase(observation, job)
    if all(one.attempt == 0 for one in stages.all):
        return "Pending"
    if stage.state == "Suspended" and not was_admitted(stage):
        return "Queued"
    fixed_phase = None if stage.state == "Suspended" else STAGES[stage.name].phase
    return fixed_phase or _PHASES.get(stage.state, "Starting")


def is_job_terminal(status: JobStatus) -> bool:
    """Whether a job is Succeeded or Failed."""
    return status.phase in ("Succeeded", "Failed")


def _apply_time_limit(
    stage: StageStatus,
    wait: float | None,
    limit: int,
    available_since: str | None,
    observation: Observation,
    job: UniMRGJob,
    now: float,
) -> StageUpdate:
    """Fail a stage with DeadlineExceeded once its time limit is over; time in suspension does not count.

    `available_since` is when its first child could have been created; None while earlier children block it.
    """
    if is_stage_terminal(stage):
        return stage, wait
    if stage.state == "Suspended" or job.spec.suspend:
        return stage.model_copy(update={"start_time": None}), wait
    blocked = stage.attempt == 0 and (unfinished_children(observation, job) or observation.previous_job_pods)
    if available_since is None and blocked:
        return stage, wait
    stage = stage.model_copy(update={"start_time": available_since or format_time(now)})
    time_left = remaining(parse_time(stage.start_time), limit, now)
    if time_left:
        return stage, shortest_wait(time_left, wait)
    if stage.attempt_end is None:
        stage = settle(stage, pods_of(observation, stage.child or ""), job, now, lost_since=0.0)
    before = "" if stage.attempt_end is None else stage.attempt_end.message
    message = one_line(f"did not finish within {limit // 60} minutes", before)
    end = AttemptEnd(time=format_time(now), reason=DEADLINE_EXCEEDED, message=message, action="Fail")
    return with_attempt_end(stage, end), None
