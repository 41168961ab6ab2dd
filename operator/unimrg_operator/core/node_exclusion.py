"""Which nodes later attempts stay away from: one that failed a job by itself at once, one that stalls the second time.

Both lists are bounded; an excluded node is excluded for this job only, and nothing is done to it.
"""

from __future__ import annotations

from unimrg_api.exit_codes import Action, Rule
from unimrg_api.status import RestartCounters

EXCLUDED_NODES_LIMIT = 16
"""Limit of excluded nodes; the oldest is dropped first."""
_STALLS_LIMIT = 64
"""Limit of nodes whose stalls are counted: the status has room for no more."""


def exclude_node(counters: RestartCounters, rule: Rule, node: str | None) -> RestartCounters:
    """Return the counters after an attempt failed by `rule` on a node; None: it is not known on which."""
    if node is None:
        return counters
    stalls, nodes = dict(counters.stalls), counters.excluded_nodes
    if rule.exclude_node_after is not None and (node in stalls or len(stalls) < _STALLS_LIMIT):
        stalls[node] = stalls.get(node, 0) + 1
    stalled = rule.exclude_node_after is not None and stalls.get(node, 0) >= rule.exclude_node_after
    if node not in nodes and (stalled or rule.action is Action.RESTART_ELSEWHERE):
        nodes = [*nodes, node][-EXCLUDED_NODES_LIMIT:]
    return counters.model_copy(update={"stalls": stalls, "excluded_nodes": nodes})
