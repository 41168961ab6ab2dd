"""Every stage of a job as an observation shows it, which one is next, and the result of the job so far.

What a stage is and how the result follows from the stages stands in the table `unimrg_api.stages`.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, JobPhase, Outcome, StageName, is_skipped, result_of
from unimrg_api.status import AttemptEnd, JobStatus, StageState, StageStatus
from unimrg_operator.core.attempts import Followed, ended, follow, is_over
from unimrg_operator.core.lookup import still_there
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.texts import left, soonest, time_of, time_text

_PHASES: dict[StageState, JobPhase] = {"Running": "Running", "Restarting": "Restarting", "Suspended": "Suspended"}
_OUTCOMES: dict[str, Outcome] = {"Succeeded": "Succeeded", "Failed": "Failed", "Skipped": "Skipped"}


@dataclass(frozen=True)
class Stages:
    """Every stage of a job, in order."""

    known: tuple[StageStatus, ...]
    wait: float | None = None
    """Seconds after which more is known even if nothing changes."""

    def __getitem__(self, name: StageName) -> StageStatus:
        return next((stage for stage in self.known if stage.name == name), None) or StageStatus(name=name)

    @property
    def current(self) -> StageStatus | None:
        """The first stage that is not over; None after the last."""
        return next((stage for stage in self.known if not is_over(stage)), None)

    @property
    def outcomes(self) -> dict[StageName, Outcome]:
        """How those ended that are over."""
        return {stage.name: _OUTCOMES[stage.state] for stage in self.known if is_over(stage)}


@dataclass(frozen=True)
class Result:
    """What a job came to."""

    reason: str
    """`Succeeded`, or in CamelCase what failed."""
    message: str
    succeeded: bool


def follow_all(status: JobStatus, observation: Observation, job: UniMRGJob, commit_step: int, now: float) -> Stages:
    """Return every stage as the observation shows it.

    `status` is what was known of them, `commit_step` the newest commit.
    """
    stages, order, children = Stages(()), list(STAGES), observation.children
    for name, row in STAGES.items():
        stage, wait = follow(status.stage(name), observation, job, commit_step, now)
        if stage.state == "Pending" and is_skipped(name, job, stages.outcomes, commit_step):
            stage = StageStatus(name=name, state="Skipped")
        elif stage.state == "Pending" and any(order.index(child.stage) > order.index(name) for child in children):
            # a later stage was begun, so this one succeeded, though nothing is left that shows it
            stage = StageStatus(name=name, state="Succeeded")
        elif row.time_limit_seconds is not None and result_so_far(stages, job) is not None:
            since = stage.start_time or status.stage(name).start_time
            stage, wait = _in_time(stage, wait, row.time_limit_seconds, since, observation, job, now)
        stages = Stages((*stages.known, stage), soonest(stages.wait, wait))
    return stages


def result_so_far(stages: Stages, job: UniMRGJob) -> Result | None:
    """Return what the job came to; None as long as that is open."""
    outcome = result_of(job, stages.outcomes)
    if outcome is None:
        return None
    if outcome == "Succeeded":
        return Result("Succeeded", "every stage succeeded", succeeded=True)
    failed = next(stage for stage in stages.known if stage.state == "Failed" and STAGES[stage.name].decides)
    reason, message = (failed.end.reason, failed.end.message) if failed.end else ("Unknown", "")
    return Result(STAGES[failed.name].failure_reason or reason, f"{failed.name}: {message}", succeeded=False)


def phase_of(stages: Stages, result: Result | None) -> JobPhase:
    """Return the phase of a job, one word for people. It is terminal once no stage is left."""
    stage = stages.current
    if stage is None:
        assert result is not None, "all stages are over, and there is no result"
        return "Succeeded" if result.succeeded else "Failed"
    if all(stage.attempt == 0 for stage in stages.known):
        return "Pending"
    own = None if stage.state == "Suspended" else STAGES[stage.name].phase
    return own or _PHASES.get(stage.state, "Starting")


def is_terminal(status: JobStatus) -> bool:
    """Whether a job has ended, for good."""
    return status.phase in ("Succeeded", "Failed")


def _in_time(
    stage: StageStatus,
    wait: float | None,
    limit: int,
    begun: str | None,
    observation: Observation,
    job: UniMRGJob,
    now: float,
) -> Followed:
    """Give a stage up once it has kept the job from its end for too long; no time passes while it is suspended.

    `begun` is when it could first be made, if that is known: what is left of an earlier stage may delay it.
    """
    if stage.state == "Suspended":
        return stage.model_copy(update={"start_time": None}), wait
    waits = stage.attempt == 0 and (still_there(observation, job) or observation.predecessors)
    if is_over(stage) or (begun is None and waits):
        return stage, wait
    stage = stage.model_copy(update={"start_time": begun or time_text(now)})
    rest = left(time_of(stage.start_time), limit, now)
    if rest:
        return stage, soonest(rest, wait)
    message = f"did not finish within {limit // 60} minutes"
    end = AttemptEnd(time=time_text(now), reason="DeadlineExceeded", message=message, action="Fail")
    return ended(stage, end), None
