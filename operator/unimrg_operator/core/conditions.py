"""The conditions of a job: one function for each, from what is known to status, reason and message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimrg_api.job import UniMRGJob
from unimrg_api.status import Condition, ConditionType, JobStatus, StageStatus
from unimrg_operator.core.attempts import is_over
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.observation import Observation, Pod
from unimrg_operator.core.progress import Heard
from unimrg_operator.core.seen import children_of, expected_pods, has_succeeded, is_alive, pods_of, still_there
from unimrg_operator.core.stages import Stages, Verdict
from unimrg_operator.core.texts import left, line, soonest, time_of, time_text, word

NO_REPORT_SECONDS = 60
"""A running attempt that has said nothing for so long is one of which nothing is known."""

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Finding:
    """A condition, without its times."""

    status: State
    reason: str
    message: str = ""
    wait: float | None = None
    """Seconds after which it may be another, even if nothing is heard."""


@dataclass(frozen=True)
class Scene:
    """What conditions are found from."""

    observation: Observation
    job: UniMRGJob
    stages: Stages
    heard: Heard
    old: JobStatus
    now: float


def dated(name: ConditionType, found: Finding, old: JobStatus, generation: int, now: float) -> Condition:
    """Return a finding as a condition, with the time at which its status last changed."""
    before = old.condition(name)
    same = before is not None and before.status == found.status
    return Condition(
        type=name,
        status=found.status,
        reason=word(found.reason, "Unknown"),
        message=line(found.message),
        last_transition_time=before.last_transition_time if before is not None and same else time_text(now),
        observed_generation=generation,
    )


def accepted(scene: Scene) -> Finding:
    """Whether the job can be rendered and what it needs is there, which its check stage finds out."""
    check = scene.stages["check"]
    if scene.observation.fault is not None:
        reason, message = scene.observation.fault
        return Finding("False", reason, message)
    if check.state in ("Succeeded", "Skipped"):
        return Finding("True", "Valid", "the check succeeded")
    if check.end is not None:
        return Finding("False", check.end.reason, check.end.message)
    for pod in _pods(scene, check):
        if pod.waiting_reason == "CreateContainerConfigError":
            return Finding("False", _configuration_fault(pod), _waiting(pod))
    if scene.observation.predecessors and check.attempt == 0:
        return Finding("Unknown", "PreviousJobEnding", _predecessors(scene))
    before = scene.old.condition("Accepted")
    if check.attempt > 1 and before is not None and before.status == "False":
        return Finding("False", before.reason, before.message)  # until a retry has succeeded
    return Finding("Unknown", "Checking", "the check is not done yet")


def running(scene: Scene) -> Finding:
    """Whether all pods of the present attempt run."""
    stage = scene.stages.current
    if stage is None:
        return Finding("False", "Finished", "no stage is left to run")
    if scene.observation.predecessors and (stage.attempt == 0 or stage.end is not None):
        return Finding("False", "PreviousJobEnding", _predecessors(scene))
    if stage.attempt == 0 and (there := still_there(scene.observation)):
        return Finding("False", "WaitingForChild", f"{stage.name} waits until {', '.join(there)} has ended")
    if stage.end is not None:
        earliest = time_of(stage.end.time) + backoff(stage.ledger, scene.job.spec.run_policy)
        message = f"{stage.name} attempt {stage.attempt + 1} follows, not before {time_text(earliest)}"
        return Finding("False", "Restarting", line(message, stage.end.message))
    pods = _pods(scene, stage)
    expected = expected_pods(scene.job, stage.name)
    ready = [pod for pod in pods if has_succeeded(pod) or (pod.phase == "Running" and pod.deleting_since is None)]
    what = f"{stage.name}: {len(ready)} of {expected} pods run"
    if stage.state == "Running" and len(ready) == expected:
        return Finding("True", "AllPodsRunning", what)
    notices = [notice for child in children_of(scene.observation, stage.name)[:1] for notice in child.notices]
    waiting = [pod for pod in pods if is_alive(pod) and pod.phase != "Running"]
    for pod in waiting:
        notices += pod.notices
    told = list(dict.fromkeys([*(_waiting(pod) for pod in waiting if pod.waiting_reason), *notices]))
    ending = [f"pod {pod.name} was asked to end" for pod in pods if is_alive(pod) and pod.deleting_since is not None]
    if ending:
        return Finding("False", "PodsEnding", line(what, *ending))
    return Finding("False", _why_waiting(waiting), line(what, *told))


def progressing(scene: Scene, run: Condition) -> Finding:
    """Whether steps are finished; `run` is the condition Running."""
    stage = scene.stages.current
    if stage is None:
        return Finding("False", "Finished")
    if run.status != "True":
        return Finding("Unknown", "NotRunning", "nothing runs that could report")
    since = time_of(run.last_transition_time)
    report = scene.observation.report
    mine = report is not None and any(pod.uid == report.pod_uid for pod in _pods(scene, stage))
    heard_at = max(since, report.received) if report is not None and mine else since
    rest = left(heard_at, NO_REPORT_SECONDS, scene.now)
    if not rest:
        return Finding("Unknown", "NoReport", f"{stage.name}: no report for {NO_REPORT_SECONDS} seconds")
    progress = scene.heard.progress
    if report is None or not mine:
        return Finding("Unknown", "Starting", f"{stage.name}: no report yet", rest)
    if progress is None or progress.stage != stage.name or not report.progress.total_steps:
        return Finding("Unknown", "Starting", line(f"{stage.name}: no step yet", report.progress.message), rest)
    timeout = scene.job.spec.run_policy.stall_timeout_seconds
    until_stalled = left(max(since, time_of(progress.updated_time)), timeout, scene.now)
    if not until_stalled:
        return Finding("False", "Stalled", f"{stage.name}: no new step for {timeout} seconds", rest)
    message = line(f"{stage.name}: step {progress.steps}", report.progress.message)
    return Finding("True", "Advancing", message, soonest(rest, until_stalled))


def checkpointed(scene: Scene) -> Finding:
    """Whether a commit is known, from which the training would go on."""
    commit = scene.heard.checkpoint
    if commit is None:
        return Finding("False", "NoneYet", "no commit was heard of")
    return Finding("True", "Saved", f"step {commit.step} at {commit.uri}")


def degraded(scene: Scene) -> Finding:
    """Whether something is noteworthy that does not keep the job from its end."""
    policy, stages = scene.job.spec.run_policy, scene.stages
    findings: list[tuple[str, str]] = []
    finish = stages["finish"]
    if finish.state == "Failed" and finish.end is not None:
        findings.append(("TrackingIncomplete", f"finish: {finish.end.message}"))
    nodes = list(dict.fromkeys(node for stage in stages.known for node in stage.ledger.excluded_nodes))
    if nodes:
        findings.append(("NodeExcluded", f"attempts stay away from {', '.join(nodes)}"))
    stage = stages.current
    if stage is not None:
        ledger = stage.ledger
        if ledger.user_restarts and ledger.user_restarts >= policy.max_restarts:
            used = f"{stage.name}: all {policy.max_restarts} restarts for the program's failures are used"
            findings.append(("RestartBudgetLow", used))
        if ledger.infra_restarts and ledger.infra_restarts >= policy.max_infra_restarts:
            used = f"{stage.name}: all {policy.max_infra_restarts} restarts for failures of machines are used"
            findings.append(("RestartBudgetLow", used))
    if not findings:
        return Finding("False", "AsExpected")
    return Finding("True", findings[0][0], line(*(message for _, message in findings)))


def ending(verdict: Verdict) -> tuple[ConditionType, Finding]:
    """Return the condition that says how a job ended."""
    name: ConditionType = "Complete" if verdict.succeeded else "Failed"
    return name, Finding("True", verdict.reason, verdict.message)


def _pods(scene: Scene, stage: StageStatus) -> list[Pod]:
    """Return the pods of a stage's newest attempt; none once it is over."""
    return pods_of(scene.observation, stage.child) if stage.child and not is_over(stage) else []


def _predecessors(scene: Scene) -> str:
    return f"pods of an earlier job of this name have not ended: {', '.join(scene.observation.predecessors)}"


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
