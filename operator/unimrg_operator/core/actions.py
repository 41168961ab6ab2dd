"""Plans actions: create the next attempt, delete children of finished attempts, delete old failed children.

An attempt is deleted or replaced only after its end is in the observed status. At most one attempt of the whole job
runs: the next is created when no pod of any other is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, TRAINING
from unimrg_api.status import JobStatus, RestartCounters, StageStatus
from unimrg_operator.core.attempts import has_ended
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.decision import Action, CreateChild, DeleteChild, DeletePod
from unimrg_operator.core.lookup import can_create_pods, children_of, is_alive, is_running, seconds_until_killed
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.core.stages import Stages
from unimrg_operator.core.texts import earliest, parse_time, remaining

GRACE_TO_EXIT_SECONDS = 15
"""Time for a controller to record that its child failed: a child that has failed by itself is kept for its logs."""
KEPT_FAILED_CHILDREN = 2
"""Failed children of each stage that are kept for their logs."""


@dataclass(frozen=True)
class Plan:
    """Actions, and the seconds until more can be due without any event."""

    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.actions + other.actions, earliest(self.requeue_after, other.requeue_after))


def plan_next_attempt(stages: Stages, status: JobStatus, observation: Observation, job: UniMRGJob, now: float) -> Plan:
    """Return the creation of the next attempt if it is due, else what has to happen before it."""
    stage = stages.current
    if stage is None or (stage.attempt > 0 and stage.end is None):
        return Plan()
    if stage.end is not None:
        if not _is_recorded(stage, status):
            return Plan()
        wait = remaining(parse_time(stage.end.time), backoff(stage.restart_counters, job.spec.run_policy), now)
        if wait:
            return Plan(requeue_after=wait)
    if any(can_create_pods(observation, child, job) for child in observation.children):
        return Plan()
    alive = [pod for pod in observation.pods if is_alive(pod)]
    if alive:
        ending = [(pod, seconds_until_killed(pod, now)) for pod in alive if pod.deleting_since is not None]
        stuck = tuple(DeletePod(pod.name, pod.uid) for pod, time in ending if not time)
        return Plan(stuck, earliest(*(time for _, time in ending)))
    number, training = stage.attempt + 1, stages[TRAINING]
    # a stage's first attempt avoids the nodes that the training avoided
    first = RestartCounters(excluded_nodes=training.restart_counters.excluded_nodes)
    train_attempt = number if STAGES[stage.name].trains else max(1, training.attempt)
    return Plan((CreateChild(stage.name, number, train_attempt, stage.restart_counters if stage.attempt else first),))


def delete_finished_children(stages: Stages, status: JobStatus, observation: Observation, now: float) -> Plan:
    """Return the deletion of children that still run although their attempt has ended.

    A child whose pods have all succeeded is kept, however long its controller takes to record that.
    """
    plan = Plan()
    for child in observation.children:
        stage = stages[child.stage]
        if child.deleting or not is_running(observation, child, observation.job.job):
            continue
        if child.attempt < stage.attempt:
            plan += Plan((_delete(child),))
        elif (has_ended(stage) or stage.state == "Restarting") and _is_recorded(stage, status):
            wait = _grace_to_exit(stage, child, now)
            plan += Plan(requeue_after=wait) if wait else Plan((_delete(child),))
    return plan


def delete_old_children(status: JobStatus, observation: Observation) -> Plan:
    """Return the deletion of all but the newest failed children of each stage."""
    old: list[Child] = []
    for name in STAGES:
        failed = [child for child in children_of(observation, name) if child.state == "Failed" and not child.deleting]
        newest = status.stage(name).attempt
        old += [child for child in failed[KEPT_FAILED_CHILDREN:] if child.attempt < newest]
    return Plan(tuple(_delete(child) for child in old))


def _is_recorded(stage: StageStatus, status: JobStatus) -> bool:
    """Whether the observed status has the stage's current attempt, state and end."""
    seen = status.stage(stage.name)
    return (seen.attempt, seen.state, seen.end) == (stage.attempt, stage.state, stage.end)


def _grace_to_exit(stage: StageStatus, child: Child, now: float) -> float:
    """Return the seconds that a child still has to fail by itself; 0 if none of its pods terminated."""
    if stage.end is None or stage.end.exit_code is None or stage.attempt != child.attempt:
        return 0.0
    return remaining(parse_time(stage.end.time), GRACE_TO_EXIT_SECONDS, now)


def _delete(child: Child) -> DeleteChild:
    return DeleteChild(child.stage, child.name, child.uid)
