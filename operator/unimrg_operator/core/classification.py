"""Classifies an attempt from the states of its pods: running, succeeded, or failed with a cause.

In this order: the container that failed first (the others' failures are mostly consequences), disrupted or deleted
pods and lost nodes, missing pods. A deleted child ends the attempt whatever its pods report. A program that fails after
one of its peers was disrupted is not the cause, nor is one that was killed while its node was away. Texts of Kubernetes
events are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unimrg_api.exit_codes import DISRUPTED, Action, Budget, ExitCode, KillReason, Rule, rule
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import Stage
from unimrg_api.status import StageStatus
from unimrg_operator.core.lookup import (
    ended_before,
    has_failed,
    has_succeeded,
    is_alive,
    seconds_until_lost,
    seconds_until_stuck,
)
from unimrg_operator.core.observation import Child, Node, Pod, Terminated
from unimrg_operator.core.texts import one_line, remaining, shortest_wait, valid_reason
from unimrg_operator.core.trouble.images import start_failure
from unimrg_operator.core.trouble.memory import is_out_of_memory, memory_remedy
from unimrg_operator.core.trouble.nodes import is_container_lost, node_interruption, was_not_ready

FAILURE_WINDOW_SECONDS = 10
"""How long others are waited for after the first failure: the pod that failed first may be observed last."""

CHILD_LOST = Rule("ChildLost", "the attempt's object was deleted", Action.RESTART, Budget.INFRA)

CLOCK_TOLERANCE_SECONDS = 2
"""A program ends with `COMMUNICATION` because a peer has gone, even if that peer ended later by its node's clock."""

_SECONDARY_EXIT_CODES: set[int] = {
    ExitCode.COMMUNICATION,
    ExitCode.INTERRUPTED,
    ExitCode.INTERRUPTED_TWICE,
    ExitCode.KILLED,
    ExitCode.TERMINATED,
}
"""Exit codes that mostly follow another pod's failure: they decide between failures in the same second."""


_NOT_TRIED_AGAIN = " (not tried again: mend that, then delete this job and create it anew)"


@dataclass(frozen=True)
class Cause:
    """Why an attempt failed, and the restart rule that applies."""

    reason: str
    message: str
    rule: Rule
    exit_code: int | None = None
    pod: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class Classification:
    """Whether an attempt has succeeded (`succeeded`), has failed (`cause`), or has not ended (neither)."""

    succeeded: bool = False
    cause: Cause | None = None
    requeue_after: float | None = None
    """Seconds until the classification can change without any event."""
    failing: bool = False
    """A pod has failed; which of them did first is known in `requeue_after` seconds."""


def classify(
    stage: StageStatus,
    child: Child | None,
    pods: list[Pod],
    definition: Stage,
    job: UniMRGJob,
    now: float,
    nodes: Sequence[Node] = (),
) -> Classification:
    """Classify the newest attempt of a stage; `child` is None if it was deleted, `nodes` is empty if none is seen.

    A suspended child has not ended, whatever its pods do; pods that ended before the last resume are ignored.
    """
    if child is None:
        message = one_line(f"{stage.child or 'the child'} was deleted, not by the operator")
        return Classification(cause=Cause(CHILD_LOST.reason, message, CHILD_LOST))
    if child.state == "Succeeded" or sum(map(has_succeeded, pods)) >= definition.pods(job):
        return Classification(succeeded=True)
    if child.state == "Suspended":
        return Classification()
    if child.resumed_at is not None:
        pods = [pod for pod in pods if is_alive(pod) or not ended_before(pod, child.resumed_at)]
    alive = [pod for pod in pods if is_alive(pod)]
    failed = [pod for pod in pods if has_failed(pod)]
    if failed:
        peers = _Peers(stage, child, pods, nodes)
        if alive and (wait := _failure_window_left(failed, peers, now)):
            return Classification(requeue_after=wait, failing=True)
        return Classification(cause=_cause_of_first_failure(failed, peers, definition, job))
    terminating = [(pod, seconds_until_stuck(pod, nodes, now)) for pod in alive if pod.deleting_since is not None]
    waits = [seconds_left for _, seconds_left in terminating if seconds_left]
    if waits:  # until then the launcher may still write a checkpoint and the termination record
        return Classification(requeue_after=max(waits))
    until_lost = [(pod, seconds_until_lost(pod, nodes, now)) for pod in alive]
    lost = [pod for pod, _ in terminating] or [pod for pod, seconds_left in until_lost if seconds_left == 0]
    if lost:
        why = "its node is lost, or did not terminate it within the grace period"
        return Classification(
            cause=_pod_lost_cause(lost[0].name, lost[0].node, why, was_not_ready(lost[0], now, nodes))
        )
    if set(stage.pod_uids) - {pod.uid for pod in pods}:
        return Classification(cause=_pod_lost_cause(None, None, "it was deleted or replaced"))
    if child.state == "Failed" and not alive:
        return Classification(cause=_pod_lost_cause(None, None, "the child failed and has no pod left"))
    return Classification(requeue_after=shortest_wait(*(seconds_left for _, seconds_left in until_lost)))


@dataclass(frozen=True)
class _Peers:
    """An attempt's pods, among which the cause of its end is looked for."""

    stage: StageStatus
    child: Child
    pods: list[Pod]
    nodes: Sequence[Node]


def _failure_window_left(failed: list[Pod], peers: _Peers, now: float) -> float:
    """Return the seconds to wait for earlier failures that are not observed yet.

    0 if the first failed pod is terminating: its exit code would disappear with it.
    """
    first = _first_failed_container(failed)
    if first is None or first[0].deleting_since is not None:
        return 0.0
    pod, end = first
    disrupted = _earlier_disruption(pod, end.finished, peers)
    return 0.0 if disrupted else remaining(end.finished, FAILURE_WINDOW_SECONDS, now)


def _first_failed_container(failed: list[Pod]) -> tuple[Pod, Terminated] | None:
    """Return the failed container that ended first; within a second, one that may be the cause comes first.

    Another failure within `CLOCK_TOLERANCE_SECONDS` comes before a lost connection, which is its consequence.
    """
    ended = [(pod, pod.terminated) for pod in failed if pod.terminated is not None and pod.terminated.exit_code != 0]

    def order(item: tuple[Pod, Terminated]) -> tuple[int, bool, int]:
        pod, end = item
        connection_lost = end.exit_code == ExitCode.COMMUNICATION
        finished = int(end.finished) + (CLOCK_TOLERANCE_SECONDS if connection_lost else 0)
        return finished, end.exit_code in _SECONDARY_EXIT_CODES and not is_out_of_memory(end), pod.node_rank

    return min(ended, key=order, default=None)


def _earlier_disruption(first: Pod, finished: float, peers: _Peers) -> str:
    """Return which peer was deleted, or lost its node, before the first pod failed; empty if none did.

    Deletions in the same second are ignored: controllers delete peers because of a failure. For that reason a missing
    peer counts only as long as no controller has recorded the failure, or if it was replaced before.
    """
    stage, child, pods = peers.stage, peers.child, peers.pods
    for pod in pods:
        if pod.uid == first.uid:
            continue
        if is_alive(pod) and (away := was_not_ready(pod, finished, peers.nodes)):
            return away
        # a pod that was deleted for a suspension, before the child was resumed, is no cause
        if pod.deleting_since is not None and (child.resumed_at or 0.0) <= pod.deleting_since < finished:
            return one_line(f"pod {pod.name} on {pod.node or 'no node'} was terminating before", pod.disruption)
    missing = set(stage.pod_uids) - {pod.uid for pod in pods}
    replaced = any(pod.uid not in stage.pod_uids and pod.created < finished for pod in pods)
    return "a pod was missing before" if missing and (child.state == "Active" or replaced) else ""


def _cause_of_first_failure(failed: list[Pod], peers: _Peers, definition: Stage, job: UniMRGJob) -> Cause:
    first = _first_failed_container(failed)
    if first is None:
        pod = next((pod for pod in failed if pod.disruption), failed[0])
        return _pod_lost_cause(pod.name, pod.node, "it failed without a container exit code", pod.disruption)
    pod, end = first
    away = node_interruption(pod, end.finished, peers.nodes)
    if is_container_lost(end):
        return _pod_lost_cause(pod.name, pod.node, "its node lost sight of the container, as after a reset", away)
    if is_out_of_memory(end):
        kill_reason = KillReason.OUT_OF_MEMORY
    elif pod.disruption or pod.deleting_since is not None or away:
        kill_reason = KillReason.DISRUPTED
    else:
        kill_reason = KillReason.UNKNOWN
    restart_rule = start_failure(end) or rule(end.exit_code, kill_reason)
    reason = valid_reason(pod.disruption if restart_rule is DISRUPTED else "", restart_rule.reason)
    restarts = restart_rule.action is Action.RESTART and restart_rule.budget is not Budget.FREE
    may_follow_disruption = restarts and kill_reason is not KillReason.OUT_OF_MEMORY
    disruption_before = _earlier_disruption(pod, end.finished, peers) if may_follow_disruption else ""
    remedy = memory_remedy(pod, definition, job) if kill_reason is KillReason.OUT_OF_MEMORY else ""
    if restart_rule.action is Action.FAIL:
        remedy = _NOT_TRIED_AGAIN
    where = f"pod {pod.name} on {pod.node or 'no node'}"
    meaning = f"{where}: exit code {end.exit_code}, {restart_rule.meaning}{remedy}"
    message = one_line(meaning, away if restart_rule is DISRUPTED else "", disruption_before, end.record.message)
    if disruption_before:
        reason, restart_rule = "PodLost", DISRUPTED
    return Cause(reason, message, restart_rule, end.exit_code, _truncate_name(pod.name), _truncate_name(pod.node))


def _pod_lost_cause(pod: str | None, node: str | None, why: str, disruption: str = "") -> Cause:
    where = f"pod {pod} on {node or 'no node'}" if pod else "a pod is lost"
    message = one_line(f"{where}: {why}", disruption)
    reason = valid_reason(disruption, "PodLost")
    return Cause(reason, message, DISRUPTED, None, _truncate_name(pod), _truncate_name(node))


def _truncate_name(text: str | None) -> str | None:
    return text[:253] if text else None
