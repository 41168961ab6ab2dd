"""One stage as a sequence of attempts: what an observation says about the newest one, written into the stage.

Nothing is done here. An end is only noted; what follows is done once an observation shows the note (`actions.py`),
so a crash at any point loses neither an end nor what it cost.
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
from unimrg_operator.core.texts import line, time_text

_STATES: dict[str, StageState] = {"Done": "Succeeded", "Fail": "Failed", "Restart": "Restarting"}


Followed = tuple[StageStatus, float | None]
"""A stage as it is now, and the seconds after which more is known even if nothing changes."""


def is_over(stage: StageStatus) -> bool:
    """Whether nothing more comes of a stage."""
    return stage.state in ("Succeeded", "Failed", "Skipped")


def follow(old: StageStatus, observation: Observation, job: UniMRGJob, commit_step: int, now: float) -> Followed:
    """Return the stage as the observation shows it.

    `old` may be behind, or wiped: then the newest child and the restart counters on it say where we are.
    `commit_step` is the newest commit that is known.
    """
    if is_over(old):
        return old, None
    children = children_of(observation, old.name)
    stage, child = _newest(old, children)
    if stage.attempt == 0:
        return StageStatus(name=old.name), None
    if stage.end is not None:
        return stage.model_copy(update={"state": _STATES[stage.end.action]}), None
    pods = pods_of(observation, child.name) if child is not None else []
    classification = evidence.classify(stage, child, pods, STAGES[old.name], job, now)
    if classification.done:
        message = f"attempt {stage.attempt} succeeded"
        done = AttemptEnd(time=time_text(now), reason="Completed", message=message, exit_code=0, action="Done")
        return ended(stage, done), None
    if classification.cause is not None:
        return _failed(stage, classification.cause, job, commit_step, now), None
    if child is not None and child.state == "Suspended":
        return stage.model_copy(update={"state": "Suspended"}), None
    return _going(stage, pods, STAGES[old.name].pods(job)), classification.wait


def _newest(old: StageStatus, children: list[Child]) -> tuple[StageStatus, Child | None]:
    """Return the stage at its newest attempt, and that attempt's child if it is there."""
    newest = children[0] if children else None
    if newest is None or newest.attempt < old.attempt:
        return old, None
    if newest.attempt == old.attempt and newest.uid == old.child_uid:
        resumed = None if newest.resumed is None else time_text(newest.resumed)
        if resumed != old.resume_time:  # the pods from before the suspension are gone, and that is no loss
            return old.model_copy(update={"resume_time": resumed, "pod_uids": []}), newest
        return old, newest
    begun = StageStatus(
        name=old.name,
        state="Starting",
        attempt=newest.attempt,
        child=newest.name,
        child_uid=newest.uid,
        start_time=old.start_time or time_text(min(child.created for child in children)),
        attempt_time=time_text(newest.created),
        resume_time=None if newest.resumed is None else time_text(newest.resumed),
        restart_counters=newest.restart_counters,
        last_end=old.end or old.last_end,
    )
    return begun, newest


def _going(stage: StageStatus, pods: list[Pod], expected: int) -> StageStatus:
    """Return a stage whose attempt goes on: its pods, once all were seen, and whether all have started."""
    uids = stage.pod_uids
    if not uids and len(pods) == expected and all(pod.deleting_since is None for pod in pods):
        uids = [pod.uid for pod in pods]
    started = len(pods) == expected and all(pod.phase == "Running" or has_succeeded(pod) for pod in pods)
    state = "Running" if started or stage.state == "Running" else "Starting"
    return stage.model_copy(update={"state": state, "pod_uids": uids})


def _failed(stage: StageStatus, cause: evidence.Cause, job: UniMRGJob, commit_step: int, now: float) -> StageStatus:
    policy = job.spec.run_policy
    committed = commit_step if STAGES[stage.name].trains else 0
    charged = charge(stage.restart_counters, cause.rule, cause.node, committed, policy)
    restart, reason, message = charged.restart, cause.reason, cause.message
    if charged.exhausted is not None:
        most = policy.max_restarts if charged.exhausted is Budget.USER else policy.max_infra_restarts
        kind = "program failures" if charged.exhausted is Budget.USER else "infrastructure failures"
        reason = "RestartsExhausted"
        message = line(f"all {most} restarts after {kind} are used up", cause.message)
    limit = STAGES[stage.name].max_attempts
    if limit is not None and stage.attempt >= limit:
        restart = False
    end = AttemptEnd(
        time=time_text(now),
        reason=reason,
        message=message,
        exit_code=cause.exit_code,
        pod=cause.pod,
        node=cause.node,
        action="Restart" if restart else "Fail",
        budget=charged.budget.value if restart else "None",
    )
    return ended(stage.model_copy(update={"restart_counters": charged.counters}), end)


def ended(stage: StageStatus, end: AttemptEnd) -> StageStatus:
    """Return a stage whose newest attempt came to this end."""
    over = None if end.action == "Restart" else end.time
    return stage.model_copy(update={"state": _STATES[end.action], "end": end, "completion_time": over})
