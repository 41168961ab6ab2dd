"""Plans the next attempt, and the deletion of children that still run although their attempt has ended.

An attempt is deleted or replaced only after its end is in the observed status. At most one attempt of the whole job
runs: the next is created when no pod of any other is left.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import counted_stage
from unimrg_api.status import JobStatus, RestartCounters, StageStatus
from unimrg_operator.core.attempts import is_stage_terminal
from unimrg_operator.core.backoff import pause_after
from unimrg_operator.core.decision import CreateChild, DeleteChild, DeletePod, Plan
from unimrg_operator.core.lookup import can_create_pods, is_alive, seconds_until_stuck, would_keep_running
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.core.stages import Stages
from unimrg_operator.core.texts import parse_time, remaining, shortest_wait

CONTROLLER_GRACE_SECONDS = 15
"""Time for a controller to mark its child Failed. Such a child is not deleted here, so that its logs are kept."""


def plan_next_attempt(
    stages: Stages, observed_status: JobStatus, observation: Observation, job: UniMRGJob, now: float
) -> Plan:
    """Return the creation of the next attempt if it is due, else what has to happen before it."""
    stage = stages.current
    if stage is None or (stage.attempt > 0 and stage.attempt_end is None):
        return Plan()
    if stage.attempt_end is not None:
        if not _is_recorded(stage, observed_status):
            return Plan()
        wait = remaining(parse_time(stage.attempt_end.time), pause_after(stage, job.spec.run_policy), now)
        if wait:
            return Plan(requeue_after=wait)
    if any(can_create_pods(observation, child, job) for child in observation.children):
        return Plan()
    alive = [pod for pod in observation.pods if is_alive(pod)]
    if alive:
        nodes, leaving = observation.nodes, [pod for pod in alive if pod.deleting_since is not None]
        terminating = [(pod, seconds_until_stuck(pod, nodes, now)) for pod in leaving]
        stuck = tuple(DeletePod(pod.name, pod.uid) for pod, seconds_left in terminating if not seconds_left)
        return Plan(stuck, shortest_wait(*(seconds_left for _, seconds_left in terminating)))
    if job.spec.suspend:
        return Plan()
    number, counted = stage.attempt + 1, stages[counted_stage(job)]
    # the first attempt of a later stage also avoids nodes that training excluded
    initial_counters = RestartCounters(excluded_nodes=counted.restart_counters.excluded_nodes)
    train_attempt = number if stage.name == counted.name else max(1, counted.attempt)
    counters = stage.restart_counters if stage.attempt else initial_counters
    return Plan((CreateChild(stage.name, number, train_attempt, counters),))


def plan_deletion_of_running_children(
    stages: Stages, observed_status: JobStatus, observation: Observation, now: float
) -> Plan:
    """Return the deletion of children that still run although their attempt has ended.

    A child whose pods have all succeeded is kept, however long its controller takes to record that.
    """
    plan = Plan()
    for child in observation.children:
        stage = stages[child.stage]
        if child.deleting or not would_keep_running(observation, child, observation.job.parsed):
            continue
        if child.attempt < stage.attempt:
            plan += Plan((_delete(child),))
        elif (is_stage_terminal(stage) or stage.attempt_end is not None) and _is_recorded(stage, observed_status):
            wait = _controller_grace_left(stage, child, now)
            plan += Plan(requeue_after=wait) if wait else Plan((_delete(child),))
    return plan


def _is_recorded(stage: StageStatus, observed_status: JobStatus) -> bool:
    """Whether the observed status has the stage's current attempt, state and end."""
    seen = observed_status.stage(stage.name)
    return (seen.attempt, seen.state, seen.attempt_end) == (stage.attempt, stage.state, stage.attempt_end)


def _controller_grace_left(stage: StageStatus, child: Child, now: float) -> float:
    """Return the seconds left for the child's controller to mark it Failed; 0 without an exit code of this attempt.

    A controller leaves a suspended child as it is, until a queue resumes it.
    """
    if (
        child.state == "Suspended"
        or stage.attempt_end is None
        or stage.attempt_end.exit_code is None
        or stage.attempt != child.attempt
    ):
        return 0.0
    return remaining(parse_time(stage.attempt_end.time), CONTROLLER_GRACE_SECONDS, now)


def _delete(child: Child) -> DeleteChild:
    return DeleteChild(child.stage, child.name, child.uid)
