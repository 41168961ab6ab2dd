"""The table of stages: order, pods, when a stage is left out, and what its failure means.

Operator, launcher, `unimrg run` and the command line read it; none of them has a rule of its own about a stage.
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


JobPhase = Literal[
    "Pending", "Queued", "Checking", "Preparing", "Starting", "Running", "Suspending", "Suspended", "Restarting",
    "Evaluating", "Finishing", "Succeeded", "Failed",
]  # fmt: skip
"""Derived from the stages, for people; programs read the conditions."""


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: StageName
    size: PodSize
    phase: JobPhase | None = None
    """Phase of the job while this is its current stage; None: the state of the stage's newest attempt."""
    validates: bool = False
    """It validates the job: the condition Accepted is its result."""
    trains: bool = False
    """Its attempts commit checkpoints and resume from them; their number is the attempt number of the whole job."""
    distributed: bool = False
    """Its work runs in one rank per GPU (or CPU process) under the launcher."""
    every_node: bool = False
    """It has `trainer.nodes` pods, made by the training backend; any other stage is a batch Job."""
    shared: bool = False
    """Its work is shared by `data.preparation.pods` pods of that Job; otherwise it has one."""
    reports_progress: bool = False
    """Its pod of node rank 0 serves progress that is worth polling."""
    scores: bool = False
    """It leaves a summary with scores, which its termination record carries."""
    encodes: bool = False
    """It runs the model's image codec where the job says `data.imageEncoding: Prepared`, and the models of `data.maps`,
    and then gets the job's GPUs."""
    fails_job: bool = True
    """Its failure is the job's failure. Otherwise it runs whatever the others came to, and changes nothing about it."""
    failure_reason: str | None = None
    """Reason that the job's conditions give for its failure; None: that of the attempt which failed."""
    max_attempts: int | None = None
    """Attempts at most, whatever is left of the restart budgets."""
    time_limit_seconds: int | None = None
    """How long it may keep the job from its end."""
    grace_seconds: int | None = None
    """Seconds between SIGTERM and SIGKILL; None: `spec.checkpoint.graceSeconds`."""

    def pods(self, job: UniMRGJob) -> int:
        """Return how many pods an attempt has."""
        if self.every_node:
            return job.spec.trainer.nodes
        return job.spec.data.preparation.pods if self.shared else 1

    def nodes(self, job: UniMRGJob) -> int:
        """Return UNIMRG_NODES of its pods: validation checks the split of the batch over all nodes."""
        return job.spec.trainer.nodes if self.validates else self.pods(job)

    def pod_size(self, job: UniMRGJob) -> PodSize:
        """Return which resources its pods get."""
        data = job.spec.data
        encodes = self.encodes and (data.image_encoding == "Prepared" or data.maps is not None)
        size = PodSize.GPU if encodes else self.size
        return PodSize.CPU if size is PodSize.GPU and not job.spec.trainer.gpus_per_node else size

    def grace(self, job: UniMRGJob) -> int:
        """Return the seconds between SIGTERM and SIGKILL."""
        return job.spec.checkpoint.grace_seconds if self.grace_seconds is None else self.grace_seconds


STAGES: dict[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage("check", PodSize.SMALL, phase="Checking", validates=True, grace_seconds=30),
        Stage("prepare", PodSize.CPU, phase="Preparing", shared=True, reports_progress=True, encodes=True),
        Stage("train", PodSize.GPU, trains=True, distributed=True, every_node=True, reports_progress=True),
        Stage(
            "evaluate",
            PodSize.GPU,
            phase="Evaluating",
            scores=True,
            distributed=True,
            reports_progress=True,
            failure_reason="EvaluateFailed",
        ),
        Stage(
            "finish",
            PodSize.SMALL,
            phase="Finishing",
            fails_job=False,
            failure_reason="TrackingIncomplete",
            max_attempts=3,
            time_limit_seconds=600,
        ),
    )
}
"""Every stage by its name, in order."""

VALIDATION: StageName = next(stage.name for stage in STAGES.values() if stage.validates)
TRAINING: StageName = next(stage.name for stage in STAGES.values() if stage.trains)


def counted_stage(job: UniMRGJob) -> StageName:
    """Return the stage whose attempts number those of the whole job."""
    return TRAINING if job.spec.trains else "evaluate"


def wanted_stages(job: UniMRGJob) -> tuple[StageName, ...]:
    """Return the stages that a job has if all goes well."""
    left_out: set[StageName] = set() if job.spec.trains else {"train"}
    if job.spec.data.sources is None:
        left_out.add("prepare")
    if job.spec.stages.evaluate.mode == "Never":
        left_out.add("evaluate")
    return tuple(name for name in STAGES if name not in left_out)


def is_skipped(name: StageName, job: UniMRGJob, before: Mapping[StageName, Outcome], checkpoint_step: int) -> bool:
    """Return whether a stage that was not begun never will be.

    `before` says how the stages before it ended, as far as they have. `checkpoint_step` is the newest, 0 for none.
    """
    if name not in wanted_stages(job):
        return True
    stopped = any(outcome in ("Failed", "Interrupted") for outcome in before.values())
    train = before.get("train") or ("Skipped" if stopped else None)
    if not job.spec.trains:
        evaluated = before.get("evaluate")
        return stopped and evaluated in (None, "Skipped")  # before the evaluation, which begins the tracking
    if name == "finish":
        return train == "Skipped"  # nothing was tracked
    if name == "evaluate":
        if train in ("Failed", "Interrupted"):
            return job.spec.stages.evaluate.mode != "Always" or checkpoint_step == 0
        return train == "Skipped"
    return stopped


def result_of(job: UniMRGJob, outcomes: Mapping[StageName, Outcome]) -> Outcome | None:
    """Return the outcome of a job from its stages' outcomes; None while it is undecided.

    It is that of the first stage which did not succeed; a failure of `finish` fails no job.
    """
    for name in wanted_stages(job):
        if not STAGES[name].fails_job:
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
