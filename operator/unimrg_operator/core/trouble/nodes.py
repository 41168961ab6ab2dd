"""Pods whose node is lost, was restarted, or is not ready: what the node says about a pod's end.

Nodes are seen only where the operator may read them (`--watch-nodes`); without them pods alone tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from unimrg_operator.core.lookup import node_of
from unimrg_operator.core.observation import Node, Pod, Terminated
from unimrg_operator.core.texts import format_time

RETURN_SECONDS = 1800
"""Longest time between a pod's end and its node's return: large servers take long to boot."""
CLOCK_SKEW_SECONDS = 10
"""A node's clock, which dates a container's end, may be ahead of the control plane's by so much."""
_CONTAINER_LOST = ("Unknown", "ContainerStatusUnknown")
"""Reasons of a container that its runtime or kubelet lost sight of, as after a reset of the machine."""


def is_container_lost(end: Terminated) -> bool:
    """Whether a container's exit code is made up: after a reset of its machine nobody knows the real one."""
    return end.reason in _CONTAINER_LOST


def node_interruption(pod: Pod, finished: float, nodes: Sequence[Node]) -> str:
    """Return how a pod's node was away when the pod ended; empty if it was not, or if nodes are not seen."""
    node = node_of(pod, nodes)
    if node is None or node.since > finished + RETURN_SECONDS:
        return ""
    if node.ready != "True":
        return f"node {node.name} is not ready since {format_time(node.since)}"
    if node.since < finished - CLOCK_SKEW_SECONDS:
        return ""
    return f"node {node.name} was away when the pod ended, and is ready again since {format_time(node.since)}"


def was_not_ready(pod: Pod, moment: float, nodes: Sequence[Node]) -> str:
    """Return since when a live pod's node is not ready, if it was not at that moment; else an empty text."""
    node = node_of(pod, nodes)
    if node is None or node.ready == "True" or node.since >= moment:
        return ""
    return f"node {node.name} of pod {pod.name} is not ready since {format_time(node.since)}"
