"""What every stage of a job is: its order, its pods, when it is left out, what its failure means: one table for all.

Operator, launcher, `unimrg run` and the command line read it; none of them has a rule about a stage of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from unimrg_api.exit_codes import ExitCode

if TYPE_CHECKING:
    from unimrg_api.job import UniMRGJob

StageName = Literal["check", "prepare", "train", "evaluate", "finish"]
"""The stages of a job, in order."""

Outcome = Literal["Succeeded", "Failed", "Interrupted", "Skipped"]
"""How a stage ended. Interrupted: it was asked to stop, and the same job can go on."""


class PodSize(Enum):
    """Which of the site profile's resources a pod gets."""

    SMALL = "Small"
    CPU = "Cpu"
    GPU = "Gpu"
    """The job's GPUs; a job without any gets the resources of CPU."""


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: StageName
    size: PodSize
    distributed: bool = False
    """Its work runs in one rank per GPU (or CPU process) under the launcher, as attempts that may commit and resume."""
    every_node: bool = False
    """It has `trainer.nodes` pods, made by the training backend; any other stage is one pod of a batch Job."""
    decides: bool = True
    """Its failure is the job's failure. Otherwise it runs whatever the others came to, and changes nothing about it."""
    max_attempts: int | None = None
    """Attempts at most, whatever is left of the restart budgets."""
    time_limit_seconds: int | None = None
    """How long it may keep the job from its end."""


STAGES: dict[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage("check", PodSize.SMALL),
        Stage("prepare", PodSize.CPU),
        Stage("train", PodSize.GPU, distributed=True, every_node=True),
        Stage("evaluate", PodSize.GPU, distributed=True),
        Stage("finish", PodSize.SMALL, decides=False, max_attempts=3, time_limit_seconds=600),
    )
}
"""Every stage by its name, in order."""


def wanted_stages(job: UniMRGJob) -> tuple[StageName, ...]:
    """Return the stages that a job has if all goes well."""
    left_out: set[StageName] = set()
    if job.spec.data.sources is None:
        left_out.add("prepare")
    if job.spec.stages.evaluate.mode == "Never":
        left_out.add("evaluate")
    return tuple(name for name in STAGES if name not in left_out)


def is_skipped(name: StageName, job: UniMRGJob, before: Mapping[StageName, Outcome], commit_step: int) -> bool:
    """Return whether a stage that was not begun never will be.

    `before` says how the stages before it ended, as far as they have; `commit_step` is the newest commit, 0 for none.
    """
    if name not in wanted_stages(job):
        return True
    if name == "finish":
        return before.get("train") in (None, "Skipped")  # nothing was tracked
    if name == "evaluate":
        if before.get("train") == "Succeeded":
            return False
        always = job.spec.stages.evaluate.mode == "Always"
        return not (always and before.get("train") in ("Failed", "Interrupted") and commit_step > 0)
    return any(outcome in ("Failed", "Interrupted") for outcome in before.values())


def result_of(job: UniMRGJob, outcomes: Mapping[StageName, Outcome]) -> Outcome | None:
    """Return what a run came to, from how its stages ended; None as long as that is open.

    The first deciding stage that did not succeed decides. `finish` never does.
    """
    for name in wanted_stages(job):
        if not STAGES[name].decides:
            continue
        outcome = outcomes.get(name)
        if outcome is None:
            return None
        if outcome in ("Failed", "Interrupted"):
            later_open = name == "train" and not is_skipped("evaluate", job, outcomes, 1) and "evaluate" not in outcomes
            return None if later_open else outcome
    return "Succeeded"


def outcome_of(exit_code: int) -> Outcome:
    """Return how a stage ended that ended with this exit code."""
    if exit_code == ExitCode.OK:
        return "Succeeded"
    stopped = (ExitCode.INTERRUPTED, ExitCode.INTERRUPTED_TWICE, ExitCode.TERMINATED)
    return "Interrupted" if exit_code in stopped else "Failed"
