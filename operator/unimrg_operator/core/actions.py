"""What is done about the stages: the next attempt, the end of what still runs of an old one, and tidying up.

An attempt is only touched, and followed by another, once an observation shows in the job's status how it ended. At
most one attempt of the whole job is alive: the next is made when no pod of any other is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, TRAINING
from unimrg_api.status import JobStatus, RestartCounters, StageStatus
from unimrg_operator.core.attempts import is_over
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.decision import Action, CreateChild, DeleteChild, DeletePod
from unimrg_operator.core.lookup import children_of, is_alive, lives, may_make_pods, time_to_end
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.core.stages import Stages
from unimrg_operator.core.texts import left, soonest, time_of

PATIENCE_SECONDS = 15
"""How long a controller may take to record that its child failed: one that ends by itself is kept for its logs."""
KEPT_FAILED_CHILDREN = 2
"""Failed children of each stage that are kept for their logs."""


@dataclass(frozen=True)
class Plan:
    """Actions, and the seconds after which there is more to do even if nothing changes."""

    actions: tuple[Action, ...] = ()
    wait: float | None = None

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.actions + other.actions, soonest(self.wait, other.wait))


def proceed(stages: Stages, shown: JobStatus, observation: Observation, job: UniMRGJob, now: float) -> Plan:
    """Return how the job goes on: the next attempt, if it is time for one."""
    stage = stages.current
    if stage is None or (stage.attempt > 0 and stage.end is None):
        return Plan()
    if stage.end is not None:
        if not _is_shown(stage, shown):
            return Plan()
        rest = left(time_of(stage.end.time), backoff(stage.restart_counters, job.spec.run_policy), now)
        if rest:
            return Plan(wait=rest)
    if any(may_make_pods(observation, child, job) for child in observation.children):
        return Plan()
    alive = [pod for pod in observation.pods if is_alive(pod)]
    if alive:
        ending = [(pod, time_to_end(pod, now)) for pod in alive if pod.deleting_since is not None]
        stuck = tuple(DeletePod(pod.name, pod.uid) for pod, time in ending if not time)
        return Plan(stuck, soonest(*(time for _, time in ending)))
    number, training = stage.attempt + 1, stages[TRAINING]
    # a stage's first attempt avoids the nodes that the training avoided
    first = RestartCounters(excluded_nodes=training.restart_counters.excluded_nodes)
    train_attempt = number if STAGES[stage.name].trains else max(1, training.attempt)
    return Plan((CreateChild(stage.name, number, train_attempt, stage.restart_counters if stage.attempt else first),))


def end_what_is_over(stages: Stages, shown: JobStatus, observation: Observation, now: float) -> Plan:
    """Return the deletion of children that still live though their attempt is over, well or badly.

    A child whose pods have all succeeded does not live: it stays, however long its controller takes to record that.
    """
    plan = Plan()
    for child in observation.children:
        stage = stages[child.stage]
        if child.deleting or not lives(observation, child, observation.job.job):
            continue
        if child.attempt < stage.attempt:
            plan += Plan((_delete(child),))
        elif (is_over(stage) or stage.state == "Restarting") and _is_shown(stage, shown):
            rest = _patience(stage, child, now)
            plan += Plan(wait=rest) if rest else Plan((_delete(child),))
    return plan


def tidy_up(shown: JobStatus, observation: Observation) -> Plan:
    """Return the deletion of failed children that are too old to be kept."""
    old: list[Child] = []
    for name in STAGES:
        failed = [child for child in children_of(observation, name) if child.state == "Failed" and not child.deleting]
        newest = shown.stage(name).attempt
        old += [child for child in failed[KEPT_FAILED_CHILDREN:] if child.attempt < newest]
    return Plan(tuple(_delete(child) for child in old))


def _is_shown(stage: StageStatus, shown: JobStatus) -> bool:
    """Whether the status that was observed says how the stage's newest attempt ended, or that none is needed."""
    seen = shown.stage(stage.name)
    return (seen.attempt, seen.state, seen.end) == (stage.attempt, stage.state, stage.end)


def _patience(stage: StageStatus, child: Child, now: float) -> float:
    """Return the seconds that a child has to end by itself; none if no pod of it did."""
    if stage.end is None or stage.end.exit_code is None or stage.attempt != child.attempt:
        return 0.0
    return left(time_of(stage.end.time), PATIENCE_SECONDS, now)


def _delete(child: Child) -> DeleteChild:
    return DeleteChild(child.stage, child.name, child.uid)
