"""What an end costs: the counters's arithmetic, by the rules of `exit_codes`, and the pause before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api import texts
from unimrg_api.exit_codes import Action, Budget, Rule
from unimrg_api.spec_platform import RunPolicySpec
from unimrg_api.status import RestartCounters

EXCLUDED_NODES_LIMIT = 16
"""Nodes that a job stays away from at most; the one excluded first comes back in first."""
_STALLS_LIMIT = 64
"""Nodes whose stalls are counted: all that the status has room for."""


@dataclass(frozen=True)
class Charge:
    """What an end changed in the counters, and what follows."""

    counters: RestartCounters
    restart: bool
    budget: Budget
    """What the restart was counted against; NONE if there is none."""
    exhausted: Budget | None = None
    """The budget that would have paid for a restart and is used up."""


def charge(counters: RestartCounters, rule: Rule, node: str | None, commit_step: int, policy: RunPolicySpec) -> Charge:
    """Charge one end.

    `commit_step` is the newest commit that is known, 0 in a stage that commits nothing. A free restart without a new
    commit since the previous one counts as infrastructure's, so that nothing loops for ever.
    """
    advanced = commit_step > counters.commit_step
    seen = counters.model_copy(
        update={
            "commit_step": max(commit_step, counters.commit_step),
            "failures_in_a_row": 1 if advanced else counters.failures_in_a_row + 1,
            "out_of_memory": counters.out_of_memory + (rule.fail_after is not None),
            "stalls": _stalls(counters, rule, node),
        }
    )
    seen = seen.model_copy(update={"excluded_nodes": _excluded(seen, rule, node)})
    if rule.action is Action.FAIL or (rule.fail_after is not None and seen.out_of_memory >= rule.fail_after):
        return Charge(seen, restart=False, budget=Budget.NONE)
    paid = counters.free_commit_step is None or seen.commit_step > counters.free_commit_step
    budget = Budget.INFRA if rule.budget is Budget.FREE and not paid else rule.budget
    if budget is Budget.USER:
        used, most, field = seen.user_restarts, policy.max_restarts, "user_restarts"
    elif budget is Budget.INFRA:
        used, most, field = seen.infra_restarts, policy.max_infra_restarts, "infra_restarts"
    else:
        used, most, field = seen.free_restarts, None, "free_restarts"
    if most is not None and used >= most:
        return Charge(seen, restart=False, budget=Budget.NONE, exhausted=budget)
    changes = {field: used + 1}
    if budget is Budget.FREE:
        changes["free_commit_step"] = seen.commit_step
    return Charge(seen.model_copy(update=changes), restart=True, budget=budget)


def backoff(counters: RestartCounters, policy: RunPolicySpec) -> float:
    """Return the seconds between the end that was charged last and the next attempt."""
    return texts.backoff(policy.backoff_seconds, policy.max_backoff_seconds, counters.failures_in_a_row)


def _stalls(counters: RestartCounters, rule: Rule, node: str | None) -> dict[str, int]:
    stalls = dict(counters.stalls)
    if rule.exclude_node_after is not None and node is not None and (node in stalls or len(stalls) < _STALLS_LIMIT):
        stalls[node] = stalls.get(node, 0) + 1
    return stalls


def _excluded(counters: RestartCounters, rule: Rule, node: str | None) -> list[str]:
    nodes = counters.excluded_nodes
    if node is None or node in nodes:
        return nodes
    stalled = rule.exclude_node_after is not None and counters.stalls.get(node, 0) >= rule.exclude_node_after
    if not stalled and rule.action is not Action.RESTART_ELSEWHERE:
        return nodes
    return [*nodes, node][-EXCLUDED_NODES_LIMIT:]
