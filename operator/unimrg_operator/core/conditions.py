"""The conditions of a job: one function for each, from what is known to status, reason and message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, VALIDATION
from unimrg_api.status import Condition, ConditionType, JobStatus, ProgressStatus, StageStatus
from unimrg_operator.core.attempts import is_over
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.lookup import children_of, has_succeeded, is_alive, pods_of, still_there
from unimrg_operator.core.observation import Observation, Pod
from unimrg_operator.core.progress import Reported
from unimrg_operator.core.stages import Stages
from unimrg_operator.core.texts import camel_case, left, line, soonest, time_of, time_text

NO_REPORT_SECONDS = 60
"""A running attempt that has not reported for so long is one of which nothing is known."""

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Finding:
    """A condition, without its times."""

    status: State
    reason: str
    message: str = ""
    wait: float | None = None
    """Seconds after which it may be another, even if nothing changes."""


@dataclass(frozen=True)
class StatusInputs:
    """What conditions are derived from."""

    observation: Observation
    job: UniMRGJob
    stages: Stages
    reported: Reported
    progress: ProgressStatus | None
    old: JobStatus
    now: float


def dated(name: ConditionType, found: Finding, old: JobStatus, generation: int, now: float) -> Condition:
    """Return a finding as a condition, with the time at which its status last changed."""
    before = old.condition(name)
    same = before is not None and before.status == found.status
    return Condition(
        type=name,
        status=found.status,
        reason=camel_case(found.reason, "Unknown"),
        message=line(found.message),
        last_transition_time=before.last_transition_time if before is not None and same else time_text(now),
        observed_generation=generation,
    )


def accepted(inputs: StatusInputs) -> Finding:
    """Whether the job can be rendered and what it needs is there, which its check stage finds out."""
    check = inputs.stages[VALIDATION]
    if inputs.observation.fault is not None:
        reason, message = inputs.observation.fault
        return Finding("False", reason, message)
    if check.state in ("Succeeded", "Skipped"):
        return Finding("True", "Valid", "the check succeeded")
    if check.end is not None:
        return Finding("False", check.end.reason, check.end.message)
    for pod in _pods(inputs, check):
        if pod.waiting_reason == "CreateContainerConfigError":
            return Finding("False", _configuration_fault(pod), _waiting(pod))
    if inputs.observation.predecessors and check.attempt == 0:
        return Finding("Unknown", "PreviousJobEnding", _predecessors(inputs))
    before = inputs.old.condition("Accepted")
    if check.attempt > 1 and before is not None and before.status == "False":
        return Finding("False", before.reason, before.message)  # until a retry has succeeded
    return Finding("Unknown", "Checking", "the check is not done yet")


def running(inputs: StatusInputs) -> Finding:
    """Whether all pods of the present attempt run."""
    stage = inputs.stages.current
    if stage is None:
        return Finding("False", "Finished", "all stages have ended")
    if inputs.observation.predecessors and (stage.attempt == 0 or stage.end is not None):
        return Finding("False", "PreviousJobEnding", _predecessors(inputs))
    if stage.attempt == 0 and (there := still_there(inputs.observation, inputs.job)):
        return Finding("False", "WaitingForChild", f"{stage.name} waits for {', '.join(there)} to end")
    if stage.end is not None:
        earliest = time_of(stage.end.time) + backoff(stage.restart_counters, inputs.job.spec.run_policy)
        message = f"{stage.name} attempt {stage.attempt + 1} starts after {time_text(earliest)}"
        if alive := [pod.name for pod in inputs.observation.pods if is_alive(pod)]:
            message += f", once these pods have ended: {', '.join(alive)}"
        return Finding("False", "Restarting", line(message, stage.end.message))
    if stage.state == "Suspended":
        message = f"{stage.name} attempt {stage.attempt} is suspended; resume {stage.child} to continue"
        return Finding("False", "Suspended", message)
    pods = _pods(inputs, stage)
    expected = STAGES[stage.name].pods(inputs.job)
    ready = [pod for pod in pods if has_succeeded(pod) or (pod.phase == "Running" and pod.deleting_since is None)]
    what = f"{stage.name}: {len(ready)} of {expected} pods are running"
    if stage.state == "Running" and len(ready) == expected:
        return Finding("True", "AllPodsRunning", what)
    warnings = [warning for child in children_of(inputs.observation, stage.name)[:1] for warning in child.warnings]
    waiting = [pod for pod in pods if is_alive(pod) and pod.phase != "Running"]
    for pod in waiting:
        warnings += pod.warnings
    reasons = list(dict.fromkeys([*(_waiting(pod) for pod in waiting if pod.waiting_reason), *warnings]))
    ending = [f"pod {pod.name} is terminating" for pod in pods if is_alive(pod) and pod.deleting_since is not None]
    if ending:
        return Finding("False", "PodsTerminating", line(what, *ending))
    return Finding("False", _why_waiting(waiting), line(what, *reasons))


def progressing(inputs: StatusInputs, run: Condition) -> Finding:
    """Whether steps are finished; `run` is the condition Running."""
    stage = inputs.stages.current
    if stage is None:
        return Finding("False", "Finished")
    if run.status != "True":
        return Finding("Unknown", "NotRunning", "no pod is running that could report progress")
    since = time_of(run.last_transition_time)
    report = inputs.observation.report
    mine = report is not None and any(pod.uid == report.pod_uid for pod in _pods(inputs, stage))
    reported_at = max(since, report.received) if report is not None and mine else since
    rest = left(reported_at, NO_REPORT_SECONDS, inputs.now)
    if not rest:
        return Finding("Unknown", "NoReport", f"{stage.name}: no report for {NO_REPORT_SECONDS} seconds")
    progress = inputs.progress
    if report is None or not mine:
        return Finding("Unknown", "Starting", f"{stage.name}: no report yet", rest)
    if progress is None or progress.stage != stage.name or not report.progress.total_steps:
        return Finding("Unknown", "Starting", line(f"{stage.name}: no step yet", report.progress.message), rest)
    timeout = inputs.job.spec.run_policy.stall_timeout_seconds
    until_stalled = left(max(since, time_of(progress.updated_time)), timeout, inputs.now)
    if not until_stalled:
        return Finding("False", "Stalled", f"{stage.name}: no new step for {timeout} seconds", rest)
    message = line(f"{stage.name}: step {progress.steps}", report.progress.message)
    return Finding("True", "Advancing", message, soonest(rest, until_stalled))


def checkpointed(inputs: StatusInputs) -> Finding:
    """Whether a checkpoint is known, from which training would resume."""
    commit = inputs.reported.checkpoint
    if commit is None:
        return Finding("False", "NoCheckpoint", "no checkpoint was reported yet")
    return Finding("True", "CheckpointSaved", f"step {commit.step} at {commit.uri}")


def degraded(inputs: StatusInputs) -> Finding:
    """Whether the job has a problem that does not fail it."""
    policy, stages = inputs.job.spec.run_policy, inputs.stages
    findings: list[tuple[str, str]] = []
    for stage in stages.known:
        row = STAGES[stage.name]
        if not row.decides and stage.state == "Failed" and stage.end is not None:
            findings.append((row.failure_reason or stage.end.reason, f"{stage.name}: {stage.end.message}"))
    nodes = list(dict.fromkeys(node for stage in stages.known for node in stage.restart_counters.excluded_nodes))
    if nodes:
        findings.append(("NodeExcluded", f"new attempts are not scheduled on {', '.join(nodes)}"))
    current = stages.current
    if current is not None:
        counters = current.restart_counters
        for used, most, kind in (
            (counters.user_restarts, policy.max_restarts, "program failures"),
            (counters.infra_restarts, policy.max_infra_restarts, "infrastructure failures"),
        ):
            if used and used >= most:
                findings.append(
                    ("RestartBudgetExhausted", f"{current.name}: all {most} restarts after {kind} are used")
                )
    if not findings:
        return Finding("False", "NoProblems")
    return Finding("True", findings[0][0], line(*(message for _, message in findings)))


def _pods(inputs: StatusInputs, stage: StageStatus) -> list[Pod]:
    """Return the pods of a stage's newest attempt; none once it is over."""
    return pods_of(inputs.observation, stage.child) if stage.child and not is_over(stage) else []


def _predecessors(inputs: StatusInputs) -> str:
    return f"pods of an earlier job of this name have not ended: {', '.join(inputs.observation.predecessors)}"


def _why_waiting(waiting: list[Pod]) -> str:
    reasons = [pod.waiting_reason for pod in waiting]
    for pod in waiting:
        if pod.waiting_reason == "CreateContainerConfigError":
            return _configuration_fault(pod)
    if any("Image" in reason for reason in reasons):
        return "ImagePull"
    return "Unschedulable" if "Unschedulable" in reasons else "PodsPending"


def _configuration_fault(pod: Pod) -> str:
    return "SecretMissing" if "secret" in pod.waiting_message.lower() else "ContainerConfigInvalid"


def _waiting(pod: Pod) -> str:
    said = f": {pod.waiting_message}" if pod.waiting_message else ""
    return f"pod {pod.name} waits: {pod.waiting_reason}{said}"
