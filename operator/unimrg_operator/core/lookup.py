"""Queries of an observation that several policies share: children by stage, pods by child, and what still runs."""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, StageName
from unimrg_operator.core.observation import Child, Observation, Pod

STUCK_SECONDS = 60
"""A pod that is still there so long after its grace period will not end by itself."""


def children_of(observation: Observation, stage: StageName) -> list[Child]:
    """Return the children of a stage, the newest attempt first."""
    children = [child for child in observation.children if child.stage == stage]
    return sorted(children, key=lambda child: -child.attempt)


def pods_of(observation: Observation, child: str) -> list[Pod]:
    """Return the pods of the child with that name, by node rank."""
    pods = [pod for pod in observation.pods if pod.child == child]
    return sorted(pods, key=lambda pod: (pod.node_rank, pod.created, pod.uid))


def is_alive(pod: Pod) -> bool:
    """Whether the trainer may still run in a pod, or may come to."""
    return pod.terminated is None and pod.phase not in ("Succeeded", "Failed")


def has_succeeded(pod: Pod) -> bool:
    """Whether a pod ended as it should."""
    if pod.terminated is None or pod.phase == "Failed":
        return pod.phase == "Succeeded"
    return pod.terminated.exit_code == 0


def has_failed(pod: Pod) -> bool:
    """Whether a pod ended as it should not."""
    return not is_alive(pod) and not has_succeeded(pod)


def is_on_lost_node(pod: Pod) -> bool:
    """Whether nobody can say any more what a pod does."""
    return pod.phase == "Unknown" or pod.disruption == "NodeLost"


def time_to_end(pod: Pod, now: float) -> float:
    """Return the seconds that a pod which was asked to end still has; 0 if it has had them, or its node is lost.

    The API server's clock may be behind ours, so the wait does not begin before we saw the pod asked; and a clock that
    was set back makes it longer, for a pod that is ended by force too early could still commit.
    """
    assert pod.deleting_since is not None
    if is_on_lost_node(pod):
        return 0.0
    since = max(pod.deleting_since, pod.deleting_seen or 0.0)
    return max(0.0, since + pod.grace_seconds + STUCK_SECONDS - now)


def has_done_its_work(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether every pod of a child has succeeded, whether or not its controller has recorded that yet."""
    pods = pods_of(observation, child.name)
    succeeded = sum(map(has_succeeded, pods))
    return job is not None and succeeded >= STAGES[child.stage].pods(job) and not any(map(is_alive, pods))


def may_make_pods(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether a child may still make pods: it has not ended, and its work is not done."""
    return child.state in ("Active", "Suspended") and not has_done_its_work(observation, child, job)


def lives(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether a child has pods, or may make pods, that nobody has asked to end."""
    pods = pods_of(observation, child.name)
    running = any(is_alive(pod) and pod.deleting_since is None for pod in pods)
    return running or may_make_pods(observation, child, job)


def still_there(observation: Observation, job: UniMRGJob) -> list[str]:
    """Return the names of the children that keep a next one from being made: those that have or may make pods."""
    unfinished = {child.name for child in observation.children if may_make_pods(observation, child, job)}
    return sorted(unfinished | {pod.child for pod in observation.pods if is_alive(pod)})
