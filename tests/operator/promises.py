"""What every single decision must keep, whatever was seen: `check` compares it with what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unimrg_api.stages import STAGES
from unimrg_api.status import AttemptEnd, JobStatus, RestartCounters, StageStatus
from unimrg_operator.core.decide import decide
from unimrg_operator.core.decision import Action, CreateChild, Decision, DeleteChild, DeletePod
from unimrg_operator.core.observation import Child, Observation, Pod

OVER = ("Succeeded", "Failed", "Skipped")
NODE_IS_BACK_WITHIN_SECONDS = 1800


def check(seen: Observation, decision: Decision, now: float, killed_at: Mapping[str, float]) -> None:
    """Assert all of it; `killed_at` says which pods were killed by the restart of their node, and when."""
    before, after = seen.job.status, decision.status
    if after != before:
        JobStatus.model_validate(after.model_dump(by_alias=True))
    if not seen.complete:
        assert (after, decision.actions) == (before, ()), "decided blindly"
        return
    for action in decision.actions:
        _an_action_follows_from_what_was_written(action, seen)
    if before.phase in ("Succeeded", "Failed"):
        assert after == before, "a job that has ended is changed"
        assert all(isinstance(action, DeleteChild) for action in decision.actions), "a job that has ended goes on"
        return
    if seen.job.parsed is None or seen.job.deleting:
        assert (after.stages, decision.actions) == (before.stages, ())
        return
    for stage in after.stages:
        old = before.stage(stage.name)
        if old.state in OVER:
            assert stage == old, f"{stage.name} had ended"
        elif stage.attempt == old.attempt and stage.child_uid == old.child_uid:
            _only_a_failure_costs_anything(old, stage)
            if stage.attempt_end is not None and old.attempt_end is None:
                _an_end_has_its_reason(stage, stage.attempt_end, seen)
                _a_restart_of_a_node_is_no_failure_of_the_program(old, stage, stage.attempt_end, seen, killed_at)
    _the_phase_is_true(after, seen)
    if seen.workloads is not None:
        blind = decide(replace(seen, workloads=None), now)
        assert (blind.actions, blind.status.stages) == (decision.actions, after.stages), "what Kueue says is acted on"


def alive(pod: Pod) -> bool:
    """Whether a pod has not ended."""
    return pod.terminated is None and pod.phase not in ("Succeeded", "Failed")


def _an_action_follows_from_what_was_written(action: Action, seen: Observation) -> None:
    """An attempt is only ended, or followed by another, once the status says how it ended."""
    shown, job = seen.job.status, seen.job.parsed
    if isinstance(action, DeletePod) or shown.phase in ("Succeeded", "Failed"):
        return
    end = shown.stage(action.stage).attempt_end
    if isinstance(action, CreateChild):
        follows = end is not None and end.action in ("Restart", "Suspend")
        known = follows and shown.stage(action.stage).attempt == action.attempt - 1
        assert action.attempt == 1 or known, f"{action} does not follow from {end}"
        assert job is not None and not job.spec.suspend, f"{action} of a suspended job"
        assert not any(map(alive, seen.pods)), f"{action} beside live pods"
    else:
        children = {child.name: child.attempt for child in seen.children if child.stage == action.stage}
        newest = max(shown.stage(action.stage).attempt, *children.values())  # others may have deleted its child
        assert children[action.name] < newest or end is not None, f"{action} does not follow from {end}"


def _only_a_failure_costs_anything(old: StageStatus, new: StageStatus) -> None:
    """Neither waiting in a queue, nor being pushed out of it, nor a suspension or a success is charged to a budget."""
    spent = [number - before for number, before in zip(_budgets(new), _budgets(old), strict=True)]
    end = new.attempt_end
    if end is None or end == old.attempt_end or end.action in ("Done", "Suspend"):
        assert not any(spent), f"{new.name} pays {spent} for {end}"
    else:
        assert sorted(spent) in ([0, 0, 0], [0, 0, 1]), f"{new.name} pays {spent} for {end}"


def _budgets(stage: StageStatus) -> tuple[int, int, int]:
    used: RestartCounters = stage.restart_counters
    return used.user_restarts, used.infra_restarts, used.free_restarts


def _an_end_has_its_reason(stage: StageStatus, end: AttemptEnd, seen: Observation) -> None:
    """A child that is suspended has not failed, and an attempt that holds no node is not too late."""
    child = _child_of(stage, seen)
    if child is not None and child.state == "Suspended":
        assert end.action in ("Done", "Suspend"), f"{end} of a suspended child"
    if end.reason == "StartTimeout":
        pods = [pod for pod in seen.pods if pod.child == stage.child]
        assert any(pod.node and alive(pod) for pod in pods), f"{end} holds no node"
    if end.reason == "ChildLost":
        assert child is None, f"{end}, and it is there"


def _a_restart_of_a_node_is_no_failure_of_the_program(
    old: StageStatus, new: StageStatus, end: AttemptEnd, seen: Observation, killed_at: Mapping[str, float]
) -> None:
    """A process that was killed with its node is not charged to the user's budget, where nodes are seen."""
    pods = [pod for pod in seen.pods if pod.name == end.pod and pod.terminated is not None]
    for pod in pods if end.exit_code == 137 else []:
        node = next((node for node in seen.nodes if node.name == pod.node), None)
        moment = killed_at.get(pod.uid)
        if node is None or moment is None or len(pods) > 1:
            continue
        away = node.ready != "True" or node.since >= moment
        if away and node.since <= moment + NODE_IS_BACK_WITHIN_SECONDS:
            assert new.restart_counters.user_restarts == old.restart_counters.user_restarts, f"{end} is charged"


def _the_phase_is_true(status: JobStatus, seen: Observation) -> None:
    """What a person reads: a suspended job has nothing that runs, a queued one waits with its child."""
    job = seen.job.parsed
    assert job is not None
    suspended = job.spec.suspend
    if status.phase == "Queued":
        assert not suspended and any(child.state == "Suspended" for child in seen.children)
    if status.phase == "Suspended" and suspended:
        assert not any(map(alive, seen.pods)), "a suspended job has live pods"
    if status.phase == "Suspended" and not suspended:
        assert any(child.state == "Suspended" for child in seen.children), "nothing is suspended"
    if status.phase == "Running":
        current = next(stage for stage in status.stages if stage.state not in OVER)
        pods = [pod for pod in seen.pods if pod.child == current.child]
        assert STAGES[current.name].trains and (pods or current.running_time is not None)


def _child_of(stage: StageStatus, seen: Observation) -> Child | None:
    return next((child for child in seen.children if child.uid == stage.child_uid), None)
