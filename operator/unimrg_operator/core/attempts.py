"""Updates the status of one stage, a sequence of attempts, from what was observed of the newest attempt.

How an attempt ended is only recorded here. `actions.py` acts once that is in the observed status, so a crash at any
point loses neither the end nor the restart that it used up.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import AttemptEnd, StageState, StageStatus
from unimrg_operator.core.budgets import charge, limits
from unimrg_operator.core.classification import Cause, classify
from unimrg_operator.core.lookup import children_of, has_succeeded, pods_of
from unimrg_operator.core.observation import Child, Observation, Pod
from unimrg_operator.core.texts import format_time, one_line

_STATE_AFTER_ACTION: dict[str, StageState] = {"Done": "Succeeded", "Fail": "Failed", "Restart": "Restarting"}


StageUpdate = tuple[StageStatus, float | None]
"""A stage's new status, and the seconds until it can change without any event."""


def is_stage_terminal(stage: StageStatus) -> bool:
    """Whether a stage succeeded, failed or was skipped."""
    return stage.state in ("Succeeded", "Failed", "Skipped")


def update_stage(
    observed: StageStatus, observation: Observation, job: UniMRGJob, checkpoint_step: int, now: float
) -> StageUpdate:
    """Return the stage, updated from the observation.

    `observed` may be stale or empty: then it is restored from the newest child and its restart counters.
    `checkpoint_step` is the step of the newest checkpoint that is known.
    """
    if is_stage_terminal(observed):
        return observed, None
    children = children_of(observation, observed.name)
    stage, child = _newest_attempt(observed, children)
    if stage.attempt == 0:
        return StageStatus(name=observed.name), None
    if stage.attempt_end is not None:
        return stage.model_copy(update={"state": _STATE_AFTER_ACTION[stage.attempt_end.action]}), None
    pods = pods_of(observation, child.name) if child is not None else []
    found = classify(stage, child, pods, STAGES[observed.name], job, now, observation.nodes)
    if found.succeeded:
        message = f"attempt {stage.attempt} succeeded"
        end = AttemptEnd(time=format_time(now), reason="Completed", message=message, exit_code=0, action="Done")
        return with_attempt_end(stage, end), None
    if found.cause is not None:
        return _failed(stage, found.cause, job, checkpoint_step, now), None
    if child is not None and child.state == "Suspended":
        return stage.model_copy(update={"state": "Suspended"}), None
    return _with_pods_and_state(stage, pods, STAGES[observed.name].pods(job)), found.requeue_after


def _newest_attempt(observed: StageStatus, children: list[Child]) -> tuple[StageStatus, Child | None]:
    """Return the stage at its newest attempt, and that attempt's child if it exists."""
    newest = children[0] if children else None
    if newest is None or newest.attempt < observed.attempt:
        return observed, None
    if newest.attempt == observed.attempt and newest.uid == observed.child_uid:
        resumed = None if newest.resumed_at is None else format_time(newest.resumed_at)
        if resumed != observed.resume_time and newest.state != "Suspended":
            # pods recorded before the suspension were deleted by it; their absence is not a failure
            return observed.model_copy(update={"resume_time": resumed, "pod_uids": []}), newest
        return observed, newest
    restored = StageStatus(
        name=observed.name,
        state="Starting",
        attempt=newest.attempt,
        child=newest.name,
        child_uid=newest.uid,
        start_time=observed.start_time or format_time(min(child.created for child in children)),
        attempt_time=format_time(newest.created),
        resume_time=None if newest.resumed_at is None else format_time(newest.resumed_at),
        restart_counters=newest.restart_counters,
        last_attempt_end=observed.attempt_end or observed.last_attempt_end,
    )
    return restored, newest


def _with_pods_and_state(stage: StageStatus, pods: list[Pod], expected: int) -> StageStatus:
    """Return a stage whose attempt has not ended: its pods, once all were observed, and Starting or Running."""
    uids = stage.pod_uids
    if not uids and len(pods) == expected and all(pod.deleting_since is None for pod in pods):
        uids = [pod.uid for pod in pods]
    all_running = len(pods) == expected and all(pod.phase == "Running" or has_succeeded(pod) for pod in pods)
    state = "Running" if all_running or stage.state == "Running" else "Starting"
    return stage.model_copy(update={"state": state, "pod_uids": uids})


def _failed(stage: StageStatus, cause: Cause, job: UniMRGJob, checkpoint_step: int, now: float) -> StageStatus:
    policy = job.spec.run_policy
    step = checkpoint_step if STAGES[stage.name].trains else 0
    charged = charge(stage.restart_counters, cause.rule, cause.node, step, policy)
    restart, reason, message = charged.restart, cause.reason, cause.message
    if charged.exhausted is not None:
        _, limit, kind = limits(charged.counters, policy)[charged.exhausted]
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
    return with_attempt_end(stage.model_copy(update={"restart_counters": charged.counters}), end)


def with_attempt_end(stage: StageStatus, end: AttemptEnd) -> StageStatus:
    """Return a stage whose newest attempt ended like this."""
    completion_time = None if end.action == "Restart" else end.time
    state = _STATE_AFTER_ACTION[end.action]
    return stage.model_copy(update={"state": state, "attempt_end": end, "completion_time": completion_time})
