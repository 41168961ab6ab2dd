"""Queries of an observation that several modules share: children by stage, pods by child, and what still runs."""

from __future__ import annotations

from collections.abc import Sequence

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, StageName
from unimrg_operator.core.observation import Child, Node, Observation, Pod

STUCK_SECONDS = 60
"""Time after its grace period at which a terminating pod counts as stuck."""
LOST_SECONDS = 60
"""Time after which a node whose kubelet does not answer counts as lost."""


def children_of(observation: Observation, stage: StageName) -> list[Child]:
    """Return the children of a stage, the newest attempt first."""
    children = [child for child in observation.children if child.stage == stage]
    return sorted(children, key=lambda child: -child.attempt)


def pods_of(observation: Observation, child: str) -> list[Pod]:
    """Return the pods of the child with that name, by node rank."""
    pods = [pod for pod in observation.pods if pod.child == child]
    return sorted(pods, key=lambda pod: (pod.node_rank, pod.created, pod.uid))


def is_alive(pod: Pod) -> bool:
    """Whether a pod has not terminated yet."""
    return pod.terminated is None and pod.phase not in ("Succeeded", "Failed")


def has_succeeded(pod: Pod) -> bool:
    """Whether a pod terminated with success."""
    if pod.phase == "Failed":
        return False
    if pod.terminated is None:
        return pod.phase == "Succeeded"
    return pod.terminated.exit_code == 0


def has_failed(pod: Pod) -> bool:
    """Whether a pod terminated without success."""
    return not is_alive(pod) and not has_succeeded(pod)


def ended_before(pod: Pod, moment: float) -> bool:
    """Whether a pod has not succeeded, and ended or was asked to before a moment, as for a suspension."""
    asked = pod.deleting_since is not None and pod.deleting_since < moment
    ended = pod.terminated is not None and pod.terminated.finished < moment
    return not has_succeeded(pod) and (asked or ended)


def node_of(pod: Pod, nodes: Sequence[Node]) -> Node | None:
    """Return the node of a pod; None if it has none, or if nodes are not seen."""
    return next((node for node in nodes if node.name == pod.node), None)


def seconds_until_lost(pod: Pod, nodes: Sequence[Node], now: float) -> float | None:
    """Return the seconds until a pod's node counts as lost, so that its state is unknown: 0 if it does.

    None: nothing is wrong with the node.
    """
    if pod.phase == "Unknown" or pod.disruption == "NodeLost":
        return 0.0
    node = node_of(pod, nodes)
    if node is None or node.ready != "Unknown":
        return None
    return max(0.0, max(node.since, node.seen_since) + LOST_SECONDS - now)


def seconds_until_stuck(pod: Pod, nodes: Sequence[Node], now: float) -> float:
    """Return the seconds until a terminating pod counts as stuck; 0 if it does, or if Kubernetes calls its node lost.

    On a node that does not answer the pod's own grace period is enough. The API server's clock may be behind ours, so
    the wait does not begin before we observed the deletion. Clock skew only lengthens it: a pod that is killed too
    early could still write a checkpoint.
    """
    assert pod.deleting_since is not None
    if pod.phase == "Unknown" or pod.disruption == "NodeLost":
        return 0.0
    since = max(pod.deleting_since, pod.deletion_observed_at or 0.0)
    patience = 0 if seconds_until_lost(pod, nodes, now) == 0 else STUCK_SECONDS
    return max(0.0, since + pod.grace_seconds + patience - now)


def all_pods_succeeded(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether all pods of a child have succeeded, even if its controller has not recorded that yet.

    Without a job, whose spec does not parse (any more), they are those that there are.
    """
    pods = pods_of(observation, child.name)
    succeeded, expected = sum(map(has_succeeded, pods)), 1 if job is None else STAGES[child.stage].pods(job)
    return succeeded >= expected and not any(map(is_alive, pods))


def can_create_pods(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether a child can still create pods: it has not ended, and not all of its pods have succeeded.

    A suspended one creates all of them again once it is resumed, also where the earlier ones had succeeded.
    """
    if child.state == "Suspended":
        return True
    return child.state == "Active" and not all_pods_succeeded(observation, child, job)


def would_keep_running(observation: Observation, child: Child, job: UniMRGJob | None) -> bool:
    """Whether a child continues unless deleted: it can create pods, or has live pods that are not terminating."""
    pods = pods_of(observation, child.name)
    running = any(is_alive(pod) and pod.deleting_since is None for pod in pods)
    return running or can_create_pods(observation, child, job)


def unfinished_children(observation: Observation, job: UniMRGJob) -> list[str]:
    """Return the names of the children that have pods or can create some: until they end, no next one is created."""
    unfinished = {child.name for child in observation.children if can_create_pods(observation, child, job)}
    return sorted(unfinished | {pod.child for pod in observation.pods if is_alive(pod)})
