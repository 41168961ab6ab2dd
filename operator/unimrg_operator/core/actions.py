"""What is done about the stages: the next attempt, the end of what still runs of an old one, and tidying up.

An attempt is only touched, and followed by another, once an observation shows in the job's status how it ended. At
most one attempt of the whole job is alive: the next is made when no pod of any other is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.status import JobStatus, Ledger, StageStatus
from unimrg_operator.core.attempts import is_over
from unimrg_operator.core.budgets import backoff
from unimrg_operator.core.decision import Action, CreateChild, DeleteChild, DeletePod
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.core.seen import children_of, is_alive, lives, time_to_end
from unimrg_operator.core.stages import ORDER, Stages
from unimrg_operator.core.texts import left, soonest, time_of

PATIENCE_SECONDS = 15
"""How long a child whose pod has ended may take to notice: one that ends by itself is kept for its logs."""
KEPT_FAILED_CHILDREN = 2
"""Failed children of each stage that are kept for their logs."""


@dataclass(frozen=True)
class Plan:
    """Actions, and the seconds after which there is more to do even if nothing is heard."""

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
        rest = left(time_of(stage.end.time), backoff(stage.ledger, job.spec.run_policy), now)
        if rest:
            return Plan(wait=rest)
    if any(child.state == "Active" for child in observation.children):
        return Plan()
    alive = [pod for pod in observation.pods if is_alive(pod)]
    if alive:
        ending = [(pod, time_to_end(pod, now)) for pod in alive if pod.deleting_since is not None]
        stuck = tuple(DeletePod(pod.name, pod.uid) for pod, time in ending if not time)
        return Plan(stuck, soonest(*(time for _, time in ending)))
    ledger = stage.ledger if stage.attempt else _first_ledger(stages)
    return Plan((CreateChild(stage.name, stage.attempt + 1, _train_attempt(stages, stage), ledger),))


def end_what_is_over(stages: Stages, shown: JobStatus, observation: Observation, now: float) -> Plan:
    """Return the deletion of children that still live though their attempt is over, well or badly."""
    plan = Plan()
    for child in observation.children:
        stage = stages[child.stage]
        if child.deleting or not lives(observation, child):
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
    for name in ORDER:
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


def _train_attempt(stages: Stages, stage: StageStatus) -> int:
    return stage.attempt + 1 if stage.name == "train" else max(1, stages["train"].attempt)


def _first_ledger(stages: Stages) -> Ledger:
    """Return the ledger of a stage's first attempt: it stays away from the nodes that the training stayed away from."""
    return Ledger(excluded_nodes=stages["train"].ledger.excluded_nodes)


def _delete(child: Child) -> DeleteChild:
    return DeleteChild(child.stage, child.name, child.uid)
