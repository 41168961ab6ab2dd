"""Which stages a job has, which is next, and what the job comes to: check, prepare, train, evaluate, finish.

The verdict comes from the stages up to evaluate. Finish runs after either outcome, wherever pods have trained, and
changes nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, StageStatus
from unimrg_operator.core.attempts import Followed, follow, given_up, is_over
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.seen import children_of, still_there
from unimrg_operator.core.texts import left, soonest, time_of, time_text

ORDER: tuple[StageName, ...] = get_args(StageName)
FINISH_SECONDS = 600
"""How long the finish stage may keep a job from its end, from when it could first be made."""


@dataclass(frozen=True)
class Stages:
    """Every stage of a job, in order."""

    known: tuple[StageStatus, ...]
    wait: float | None = None
    """Seconds after which more is known even if nothing is heard."""

    def __getitem__(self, name: StageName) -> StageStatus:
        return next((stage for stage in self.known if stage.name == name), None) or StageStatus(name=name)

    @property
    def current(self) -> StageStatus | None:
        """The first stage that is not over; None after the last."""
        return next((stage for stage in self.known if not is_over(stage)), None)


@dataclass(frozen=True)
class Verdict:
    """What a job comes to."""

    reason: str
    """`Succeeded`, or one word for what failed."""
    message: str

    @property
    def succeeded(self) -> bool:
        """Whether everything that the job wants was done."""
        return self.reason == "Succeeded"


def wanted(job: UniMRGJob) -> tuple[StageName, ...]:
    """Return the stages that a job has if all goes well."""
    left_out = {"prepare": job.spec.data.sources is None, "evaluate": job.spec.stages.evaluate.mode == "Never"}
    return tuple(name for name in ORDER if not left_out.get(name, False))


def follow_all(status: JobStatus, observation: Observation, job: UniMRGJob, commit_step: int, now: float) -> Stages:
    """Return every stage as the observation shows it; `status` is what was known of them, `commit_step` the newest
    commit.
    """
    stages = Stages(())
    for name in ORDER:
        followed = follow(status.stage(name), observation, job, commit_step, now)
        stage = followed.stage
        if stage.state == "Pending" and _is_left_out(name, stages, job, commit_step):
            followed = Followed(StageStatus(name=name, state="Skipped"))
        elif stage.state == "Pending" and _has_later_children(name, observation):
            # a later stage was begun, so this one succeeded, though nothing is left that says so
            followed = Followed(StageStatus(name=name, state="Succeeded"))
        elif name == "finish" and verdict_of(stages) is not None:
            followed = _in_time(followed, status.stage(name).start_time, observation, now)
        stages = Stages((*stages.known, followed.stage), soonest(stages.wait, followed.wait))
    return stages


def verdict_of(stages: Stages) -> Verdict | None:
    """Return what the job comes to; None as long as that is open."""
    deciding = [stages[name] for name in ORDER if name != "finish"]
    if not all(is_over(stage) for stage in deciding):
        return None
    failed = next((stage for stage in deciding if stage.state == "Failed"), None)
    if failed is None:
        return Verdict("Succeeded", "every stage succeeded")
    reason, message = (failed.end.reason, failed.end.message) if failed.end else ("Unknown", "")
    return Verdict("EvaluateFailed" if failed.name == "evaluate" else reason, f"{failed.name}: {message}")


def _is_left_out(name: StageName, before: Stages, job: UniMRGJob, commit_step: int) -> bool:
    """Whether a stage that was not begun never will be, given the ones before it."""
    train = before["train"].state
    if name not in wanted(job):
        return True
    if name in ("prepare", "train"):
        return any(stage.state == "Failed" for stage in before.known)
    if name == "evaluate" and train == "Failed":
        return job.spec.stages.evaluate.mode != "Always" or commit_step == 0
    return train == "Skipped"


def _has_later_children(name: StageName, observation: Observation) -> bool:
    return any(children_of(observation, later) for later in ORDER[ORDER.index(name) + 1 :])


def _in_time(finish: Followed, since: str | None, observation: Observation, now: float) -> Followed:
    """Give finish up once it has kept the job from its end for too long.

    `since` is when it could first be made, if the status has noted that: what is left of an earlier stage may keep it.
    """
    stage = finish.stage
    begun = stage.start_time or since
    if is_over(stage) or (begun is None and (still_there(observation) or observation.predecessors)):
        return finish
    stage = stage.model_copy(update={"start_time": begun or time_text(now)})
    rest = left(time_of(stage.start_time), FINISH_SECONDS, now)
    if rest:
        return Followed(stage, soonest(rest, finish.wait))
    message = f"it was not done within {FINISH_SECONDS // 60} minutes"
    return Followed(given_up(stage, message, now))
