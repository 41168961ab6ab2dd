"""Updates the status of one stage, a sequence of attempts, from what was observed of the newest attempt.

How an attempt ended is only recorded here. `actions.py` acts once that is in the observed status, so a crash at any
point loses neither the end nor the restart that it used up.
"""

from __future__ import annotations

from unimrg_api.exit_codes import Budget
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import AttemptEnd, StageState, StageStatus
from unimrg_operator.core import evidence
from unimrg_operator.core.budgets import charge
from unimrg_operator.core.lookup import children_of, has_succeeded, pods_of
from unimrg_operator.core.observation import Child, Observation, Pod
from unimrg_operator.core.texts import format_time, one_line

_STATES: dict[str, StageState] = {"Done": "Succeeded", "Fail": "Failed", "Restart": "Restarting"}


Update = tuple[StageStatus, float | None]
"""A stage's new status, and the seconds until it can change without any event."""


def has_ended(stage: StageStatus) -> bool:
    """Whether a stage has ended: it succeeded, failed or was skipped."""
    return stage.state in ("Succeeded", "Failed", "Skipped")


def update_stage(old: StageStatus, observation: Observation, job: UniMRGJob, commit_step: int, now: float) -> Update:
    """Return the stage, updated from the observation.

    `old` may be stale or empty: then it is restored from the newest child and its restart counters. `commit_step` is
    the step of the newest checkpoint that is known.
    """
    if has_ended(old):
        return old, None
    children = children_of(observation, old.name)
    stage, child = _newest_attempt(old, children)
    if stage.attempt == 0:
        return StageStatus(name=old.name), None
    if stage.end is not None:
        return stage.model_copy(update={"state": _STATES[stage.end.action]}), None
    pods = pods_of(observation, child.name) if child is not None else []
    classification = evidence.classify(stage, child, pods, STAGES[old.name], job, now)
    if classification.done:
        message = f"attempt {stage.attempt} succeeded"
        done = AttemptEnd(time=format_time(now), reason="Completed", message=message, exit_code=0, action="Done")
        return with_end(stage, done), None
    if classification.cause is not None:
        return _failed(stage, classification.cause, job, commit_step, now), None
    if child is not None and child.state == "Suspended":
        return stage.model_copy(update={"state": "Suspended"}), None
    return _ongoing(stage, pods, STAGES[old.name].pods(job)), classification.requeue_after


def _newest_attempt(old: StageStatus, children: list[Child]) -> tuple[StageStatus, Child | None]:
    """Return the stage at its newest attempt, and that attempt's child if it exists."""
    newest = children[0] if children else None
    if newest is None or newest.attempt < old.attempt:
        return old, None
    if newest.attempt == old.attempt and newest.uid == old.child_uid:
        resumed = None if newest.resumed is None else format_time(newest.resumed)
        if resumed != old.resume_time:  # the suspension deleted these pods: no failure
            return old.model_copy(update={"resume_time": resumed, "pod_uids": []}), newest
        return old, newest
    begun = StageStatus(
        name=old.name,
        state="Starting",
        attempt=newest.attempt,
        child=newest.name,
        child_uid=newest.uid,
        start_time=old.start_time or format_time(min(child.created for child in children)),
        attempt_time=format_time(newest.created),
        resume_time=None if newest.resumed is None else format_time(newest.resumed),
        restart_counters=newest.restart_counters,
        last_end=old.end or old.last_end,
    )
    return begun, newest


def _ongoing(stage: StageStatus, pods: list[Pod], expected: int) -> StageStatus:
    """Return a stage whose attempt has not ended: its pods, once all were observed, and Starting or Running."""
    uids = stage.pod_uids
    if not uids and len(pods) == expected and all(pod.deleting_since is None for pod in pods):
        uids = [pod.uid for pod in pods]
    all_running = len(pods) == expected and all(pod.phase == "Running" or has_succeeded(pod) for pod in pods)
    state = "Running" if all_running or stage.state == "Running" else "Starting"
    return stage.model_copy(update={"state": state, "pod_uids": uids})


def _failed(stage: StageStatus, cause: evidence.Cause, job: UniMRGJob, commit_step: int, now: float) -> StageStatus:
    policy = job.spec.run_policy
    checkpoint_step = commit_step if STAGES[stage.name].trains else 0
    charged = charge(stage.restart_counters, cause.rule, cause.node, checkpoint_step, policy)
    restart, reason, message = charged.restart, cause.reason, cause.message
    if charged.exhausted is not None:
        limit = policy.max_restarts if charged.exhausted is Budget.USER else policy.max_infra_restarts
        kind = "program failures" if charged.exhausted is Budget.USER else "infrastructure failures"
        reason = "RestartsExhausted"
        message = one_line(f"all {limit} restarts after {kind} are used up", cause.message)
    max_attempts = STAGES[stage.name].max_attempts
    if max_attempts is not None and stage.attempt >= max_attempts:
        restart = False
    end = AttemptEnd(
        time=format_time(now),
        reason=reason,
        message=message,
        exit_code=cause.exit_code,
        pod=cause.pod,
        node=cause.node,
        action="Restart" if restart else "Fail",
        budget=charged.budget.value if restart else "None",
    )
    return with_end(stage.model_copy(update={"restart_counters": charged.counters}), end)


def with_end(stage: StageStatus, end: AttemptEnd) -> StageStatus:
    """Return a stage whose newest attempt ended like this."""
    completion_time = None if end.action == "Restart" else end.time
    return stage.model_copy(update={"state": _STATES[end.action], "end": end, "completion_time": completion_time})
