"""The conditions of a job: one function for each returns its status, reason and message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimrg_api.job import UniMRGJob
from unimrg_api.redaction import clean
from unimrg_api.stages import STAGES, VALIDATION
from unimrg_api.status import Condition, ConditionType, JobStatus, ProgressStatus, StageStatus
from unimrg_operator.core.attempts import is_stage_terminal
from unimrg_operator.core.backoff import pause_after
from unimrg_operator.core.budgets import limits
from unimrg_operator.core.lookup import children_of, has_succeeded, is_alive, pods_of, unfinished_children
from unimrg_operator.core.observation import Observation, Pod
from unimrg_operator.core.progress import ReportedStatus
from unimrg_operator.core.queueing import standing
from unimrg_operator.core.stages import Stages
from unimrg_operator.core.texts import format_time, one_line, parse_time, remaining, shortest_wait, valid_reason
from unimrg_operator.core.trouble.finding import Trouble
from unimrg_operator.core.trouble.waiting import Waiting, places_held, why_waiting

_CONFIG_TROUBLES = (Trouble.SECRET_MISSING, Trouble.CONFIG_MAP_MISSING, Trouble.CONTAINER_CONFIG_INVALID)
"""Troubles of the check's pod that say that the job itself names something wrong."""
NO_REPORT_SECONDS = 60
"""Without a report for this long, Progressing becomes Unknown."""

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class ConditionValue:
    """A condition without its type and times."""

    status: ConditionStatus
    reason: str
    message: str = ""
    requeue_after: float | None = None
    """Seconds until the value can change without any event."""


@dataclass(frozen=True)
class StatusInputs:
    """What the status is derived from."""

    observation: Observation
    job: UniMRGJob
    stages: Stages
    reported: ReportedStatus
    progress: ProgressStatus | None
    observed_status: JobStatus
    now: float


def to_condition(
    condition_type: ConditionType, value: ConditionValue, observed_status: JobStatus, generation: int, now: float
) -> Condition:
    """Return a value as a condition, with the time at which its status last changed."""
    before = observed_status.condition(condition_type)
    same = before is not None and before.status == value.status
    return Condition(
        type=condition_type,
        status=value.status,
        reason=valid_reason(value.reason, "Unknown"),
        message=one_line(value.message),
        last_transition_time=before.last_transition_time if before is not None and same else format_time(now),
        observed_generation=generation,
    )


def accepted(inputs: StatusInputs) -> ConditionValue:
    """Whether the check stage succeeded and the job's children can be created."""
    check = inputs.stages[VALIDATION]
    if inputs.observation.creation_error is not None:
        reason, message = inputs.observation.creation_error
        return ConditionValue("False", reason, message)
    if check.state in ("Succeeded", "Skipped"):
        return ConditionValue("True", "Valid", "the check succeeded")
    if check.attempt_end is not None and check.attempt_end.action != "Suspend":
        return ConditionValue("False", check.attempt_end.reason, check.attempt_end.message)
    waiting = _waiting(inputs, check)
    if waiting.reason in _CONFIG_TROUBLES:
        return ConditionValue("False", waiting.reason, waiting.message)
    if inputs.observation.previous_job_pods and check.attempt == 0:
        return ConditionValue("Unknown", "PreviousJobEnding", _previous_job_message(inputs))
    before = inputs.observed_status.condition("Accepted")
    if check.attempt > 1 and before is not None and before.status == "False":
        return ConditionValue("False", before.reason, before.message)  # until a retry has succeeded
    return ConditionValue("Unknown", "Checking", "the check has not ended yet")


def admitted(inputs: StatusInputs) -> ConditionValue | None:
    """Whether the queue has admitted the current attempt; None for a job without a queue."""
    stage = inputs.stages.current
    found = None if stage is None else standing(stage, inputs.observation, inputs.job, inputs.now)
    if found is not None:
        return ConditionValue("True" if found.admitted else "False", found.reason, found.message, found.requeue_after)
    if inputs.job.spec.queue is None:
        return None
    if stage is None:
        return ConditionValue("False", "Finished", "all stages have ended")
    return ConditionValue("Unknown", "NotQueued", f"{stage.name} has nothing in the queue just now")


def running(inputs: StatusInputs) -> ConditionValue:
    """Whether all pods of the current attempt run."""
    stage = inputs.stages.current
    if stage is None:
        return ConditionValue("False", "Finished", "all stages have ended")
    if inputs.job.spec.suspend:
        return ConditionValue("False", "Suspended", "spec.suspend is true")
    if inputs.observation.previous_job_pods and (stage.attempt == 0 or stage.attempt_end is not None):
        return ConditionValue("False", "PreviousJobEnding", _previous_job_message(inputs))
    if stage.attempt == 0 and (blocking := unfinished_children(inputs.observation, inputs.job)):
        return ConditionValue("False", "PreviousStageEnding", f"{stage.name} waits for {', '.join(blocking)} to end")
    if stage.attempt_end is not None:
        not_before = parse_time(stage.attempt_end.time) + pause_after(stage, inputs.job.spec.run_policy)
        message = f"{stage.name} attempt {stage.attempt + 1} starts after {format_time(not_before)}"
        if alive := [pod.name for pod in inputs.observation.pods if is_alive(pod)]:
            message += f", once these pods have ended: {', '.join(alive)}"
        return ConditionValue("False", "Restarting", one_line(message, stage.attempt_end.message))
    if stage.state == "Suspended":
        if (found := admitted(inputs)) is not None and found.status == "False":
            reason = "QueuePreempted" if found.reason == "Evicted" else found.reason
            return ConditionValue("False", reason, found.message)
        message = f"{stage.name} attempt {stage.attempt} is suspended; resume {stage.child} to continue"
        return ConditionValue("False", "Suspended", message)
    pods = _pods(inputs, stage)
    expected = STAGES[stage.name].pods(inputs.job)
    ready = [pod for pod in pods if has_succeeded(pod) or (pod.phase == "Running" and pod.deleting_since is None)]
    what = f"{stage.name}: {len(ready)} of {expected} pods are running"
    if stage.state == "Running" and len(ready) == expected:
        return ConditionValue("True", "AllPodsRunning", what)
    ending = [f"pod {pod.name} is terminating" for pod in pods if is_alive(pod) and pod.deleting_since is not None]
    if ending:
        return ConditionValue("False", "PodsTerminating", one_line(what, *ending))
    waiting = _waiting(inputs, stage)
    held = places_held(pods, inputs.job) if waiting.message else ""
    return ConditionValue("False", waiting.reason, one_line(what, waiting.message, held), waiting.requeue_after)


def suspended(inputs: StatusInputs) -> ConditionValue | None:
    """Whether nothing of the job runs because its user suspended it; None: it never was suspended."""
    if inputs.job.spec.suspend and inputs.stages.current is not None:
        if unfinished := unfinished_children(inputs.observation, inputs.job):
            message = f"spec.suspend is true; these save a checkpoint and end: {', '.join(unfinished)}"
            return ConditionValue("False", "Suspending", message)
        return ConditionValue(
            "True", "UserRequested", "nothing runs; to go on, set spec.suspend: false (unimrg resume)"
        )
    if inputs.observed_status.condition("Suspended") is None:
        return None
    if inputs.stages.current is None:
        return ConditionValue("False", "Finished", "the job has ended")
    return ConditionValue("False", "Resumed", "spec.suspend is false again")


def progressing(inputs: StatusInputs, running_condition: Condition) -> ConditionValue:
    """Whether the current stage makes progress."""
    stage = inputs.stages.current
    if stage is None:
        return ConditionValue("False", "Finished")
    if running_condition.status != "True":
        return ConditionValue("Unknown", "NotRunning", "no pod is running that could report progress")
    since = parse_time(running_condition.last_transition_time)
    report = inputs.observation.report
    from_current_stage = report is not None and any(pod.uid == report.pod_uid for pod in _pods(inputs, stage))
    reported_at = max(since, report.received) if report is not None and from_current_stage else since
    wait = remaining(reported_at, NO_REPORT_SECONDS, inputs.now)
    if not wait:
        return ConditionValue("Unknown", "NoReport", f"{stage.name}: no report for {NO_REPORT_SECONDS} seconds")
    progress = inputs.progress
    if report is None or not from_current_stage:
        return ConditionValue("Unknown", "Starting", f"{stage.name}: no report yet", wait)
    if progress is None or progress.stage != stage.name or not report.progress.total_steps:
        message = one_line(f"{stage.name}: no step yet", report.progress.message)
        return ConditionValue("Unknown", "Starting", message, wait)
    timeout = inputs.job.spec.run_policy.stall_timeout_seconds
    until_stalled = remaining(max(since, parse_time(progress.updated_time)), timeout, inputs.now)
    if not until_stalled:
        return ConditionValue("False", "Stalled", f"{stage.name}: no new step for {timeout} seconds", wait)
    message = one_line(f"{stage.name}: step {progress.steps}", report.progress.message)
    return ConditionValue("True", "Advancing", message, shortest_wait(wait, until_stalled))


def checkpointed(inputs: StatusInputs) -> ConditionValue:
    """Whether a checkpoint is known, from which training would resume."""
    checkpoint = inputs.reported.checkpoint
    if checkpoint is None:
        return ConditionValue("False", "NoCheckpoint", "no checkpoint was reported yet")
    return ConditionValue("True", "CheckpointSaved", f"step {checkpoint.step} at {checkpoint.uri}")


def degraded(inputs: StatusInputs) -> ConditionValue:
    """Whether the job has a problem that does not fail it."""
    stages = inputs.stages
    found: list[tuple[str, str]] = []
    for stage in stages.all:
        definition = STAGES[stage.name]
        if not definition.fails_job and stage.state == "Failed" and stage.attempt_end is not None:
            found.append(
                (definition.failure_reason or stage.attempt_end.reason, f"{stage.name}: {stage.attempt_end.message}")
            )
    nodes = list(dict.fromkeys(node for stage in stages.all for node in stage.restart_counters.excluded_nodes))
    if nodes:
        found.append(("NodeExcluded", f"new attempts are not scheduled on {', '.join(nodes)}"))
    current, report = stages.current, inputs.observation.report
    if current is not None and report is not None and (problem := report.progress.mlflow_problem):
        reports = any(pod.uid == report.pod_uid for pod in _pods(inputs, current))
        found += [(Trouble.TRACKING_UNAVAILABLE, clean(problem))] if reports else []
    if current is not None:
        for used, limit, kind in limits(current.restart_counters, inputs.job.spec.run_policy).values():
            if used and used >= limit:
                found.append(("RestartBudgetExhausted", f"{current.name}: all {limit} restarts after {kind} are used"))
    if not found:
        return ConditionValue("False", "NoProblems")
    return ConditionValue("True", found[0][0], one_line(*(message for _, message in found)))


def _pods(inputs: StatusInputs, stage: StageStatus) -> list[Pod]:
    """Return the pods of a stage's newest attempt; none once the stage has ended."""
    return pods_of(inputs.observation, stage.child) if stage.child and not is_stage_terminal(stage) else []


def _waiting(inputs: StatusInputs, stage: StageStatus) -> Waiting:
    child = next(iter(children_of(inputs.observation, stage.name)), None) if stage.attempt else None
    return why_waiting(child, _pods(inputs, stage), STAGES[stage.name], inputs.job, inputs.now)


def _previous_job_message(inputs: StatusInputs) -> str:
    return f"pods of an earlier job of this name have not ended: {', '.join(inputs.observation.previous_job_pods)}"
