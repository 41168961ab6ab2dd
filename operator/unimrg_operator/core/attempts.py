"""Updates the status of one stage, a sequence of attempts, from what was observed of the newest attempt.

How an attempt ended is only recorded here. `actions.py` acts once that is in the observed status, so a crash at any
point loses neither the end nor the restart that it used up.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import AttemptEnd, CheckpointStatus, StageState, StageStatus
from unimrg_operator.core.accounting import begin, settle
from unimrg_operator.core.budgets import charge, limits
from unimrg_operator.core.classification import Cause, classify
from unimrg_operator.core.deadline import deadline_end, seconds_to_deadline
from unimrg_operator.core.lookup import children_of, ended_before, has_succeeded, pods_of
from unimrg_operator.core.observation import Child, Observation, Pod
from unimrg_operator.core.start_timeout import start_timeout
from unimrg_operator.core.suspension import suspension_end
from unimrg_operator.core.texts import format_time, one_line, parse_time, shortest_wait

_STATE_AFTER_ACTION: dict[str, StageState] = {
    "Done": "Succeeded",
    "Fail": "Failed",
    "Restart": "Restarting",
    "Suspend": "Suspended",
}


StageUpdate = tuple[StageStatus, float | None]
"""A stage's new status, and the seconds until it can change without any event."""


def is_stage_terminal(stage: StageStatus) -> bool:
    """Whether a stage succeeded, failed or was skipped."""
    return stage.state in ("Succeeded", "Failed", "Skipped")


def update_stage(
    observed: StageStatus, observation: Observation, job: UniMRGJob, checkpoint: CheckpointStatus | None, now: float
) -> StageUpdate:
    """Return the stage, updated from the observation.

    `observed` may be stale or empty: then it is restored from the newest child and its restart counters.
    `checkpoint` is the newest one that is known.
    """
    if is_stage_terminal(observed):
        return observed, None
    children = children_of(observation, observed.name)
    stage, child = _newest_attempt(observed, children, job, now)
    if stage.attempt == 0:
        return StageStatus(name=observed.name), None
    if stage.attempt_end is not None:
        resumed = stage.attempt_end.action == "Suspend" and not job.spec.suspend
        state = "Restarting" if resumed else _STATE_AFTER_ACTION[stage.attempt_end.action]
        return stage.model_copy(update={"state": state}), None
    pods = pods_of(observation, child.name) if child is not None else []
    found = classify(stage, child, pods, STAGES[observed.name], job, now, observation.nodes)
    # those that a suspension ended are in the account already, and may outlive it
    pods = [pod for pod in pods if not ended_before(pod, parse_time(stage.resume_time))]
    if found.succeeded:
        message = f"attempt {stage.attempt} succeeded"
        end = AttemptEnd(time=format_time(now), reason="Completed", message=message, exit_code=0, action="Done")
        return with_attempt_end(settle(stage, pods, job, now), end), None
    if found.cause is not None or child is None:
        assert found.cause is not None, "an attempt without a child has failed"
        return _failed(stage, found.cause, pods, job, checkpoint, now), None
    if found.failing:
        return _with_pods_and_state(stage, pods, STAGES[observed.name].pods(job), now), found.requeue_after
    if job.spec.suspend:
        return with_attempt_end(settle(stage, pods, job, now), suspension_end(now)), None
    if child.state == "Suspended":
        stage = stage if stage.state == "Suspended" else settle(stage, pods, job, now)
        return stage.model_copy(update={"state": "Suspended"}), None
    stage = _with_pods_and_state(stage, pods, STAGES[observed.name].pods(job), now)
    left = seconds_to_deadline(stage, job, now)
    if left == 0:
        return with_attempt_end(settle(stage, pods, job, now), deadline_end(job, now)), None
    late = start_timeout(stage, child, pods, job, now)
    if late.cause is not None:
        return _failed(stage, late.cause, pods, job, checkpoint, now), None
    until_deadline = left if stage.running_time is not None else None
    return stage, shortest_wait(found.requeue_after, until_deadline, late.requeue_after)


def _newest_attempt(
    observed: StageStatus, children: list[Child], job: UniMRGJob, now: float
) -> tuple[StageStatus, Child | None]:
    """Return the stage at its newest attempt, and that attempt's child if it exists."""
    newest = children[0] if children else None
    if newest is None or newest.attempt < observed.attempt:
        return observed, None
    if newest.attempt == observed.attempt and newest.uid == observed.child_uid:
        resumed = None if newest.resumed_at is None else format_time(newest.resumed_at)
        if resumed != observed.resume_time and newest.state != "Suspended":
            # pods recorded before the suspension were deleted by it; their absence is not a failure
            if observed.running_time is not None:  # the suspension itself was not seen
                observed = settle(observed, [], job, newest.resumed_at or now)
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


def _with_pods_and_state(stage: StageStatus, pods: list[Pod], expected: int, now: float) -> StageStatus:
    """Return a stage whose attempt has not ended: its pods, once all were observed, and Starting or Running."""
    uids = stage.pod_uids
    if not uids and len(pods) == expected and all(pod.deleting_since is None for pod in pods):
        uids = [pod.uid for pod in pods]
    all_running = len(pods) == expected and all(pod.phase == "Running" or has_succeeded(pod) for pod in pods)
    if all_running:
        stage = begin(stage, pods, now)
    state = "Starting" if stage.running_time is None else "Running"
    return stage.model_copy(update={"state": state, "pod_uids": uids})


def _failed(
    stage: StageStatus, cause: Cause, pods: list[Pod], job: UniMRGJob, checkpoint: CheckpointStatus | None, now: float
) -> StageStatus:
    policy, definition = job.spec.run_policy, STAGES[stage.name]
    saved = checkpoint if definition.trains else None
    stage = settle(stage, pods, job, now, lost_since=0.0 if saved is None else parse_time(saved.time))
    before = stage.restart_counters
    charged = charge(before, cause.rule, cause.node, 0 if saved is None else saved.step, policy)
    restart, reason, message = charged.restart, cause.reason, cause.message
    if charged.exhausted is not None:
        _, limit, kind = limits(charged.counters, policy)[charged.exhausted]
        reason = "RestartsExhausted"
        message = one_line(f"all {limit} restarts after {kind} are used up", cause.message)
    restarts = before.user_restarts + before.infra_restarts + before.free_restarts
    if definition.max_attempts is not None and restarts + 1 >= definition.max_attempts:
        restart = False
    if restart and seconds_to_deadline(stage, job, now) == 0:
        end = deadline_end(job, now, cause.message)
        return with_attempt_end(stage.model_copy(update={"restart_counters": charged.counters}), end)
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
