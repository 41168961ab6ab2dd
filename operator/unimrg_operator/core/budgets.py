"""Restart budgets: which counter a failed attempt is charged to, by the rules of `exit_codes`.

What only a person can mend (a wrong configuration, corrupt data, refused credentials, …) is never restarted: there the
rules say FAIL.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.exit_codes import OUT_OF_MEMORY, Action, Budget, Rule
from unimrg_api.spec_platform import RunPolicySpec
from unimrg_api.status import RestartCounters
from unimrg_operator.core.node_exclusion import exclude_node


@dataclass(frozen=True)
class Charge:
    """The counters after a failed attempt, and whether it is restarted."""

    counters: RestartCounters
    restart: bool
    budget: Budget
    """The budget that the restart is charged to; NONE without a restart."""
    exhausted: Budget | None = None
    """The budget that had no restart left; None if that is not why there is none."""


def charge(
    counters: RestartCounters, rule: Rule, node: str | None, checkpoint_step: int, policy: RunPolicySpec
) -> Charge:
    """Charge one failed attempt.

    `checkpoint_step` is the step of the newest checkpoint that is known, 0 in a stage without checkpoints. A free
    restart without a new checkpoint since the previous one is charged to the infra budget: no endless restarts.
    """
    advanced_since_last_failure = checkpoint_step > counters.checkpoint_step
    updated = counters.model_copy(
        update={
            "checkpoint_step": max(checkpoint_step, counters.checkpoint_step),
            "consecutive_failures": 1 if advanced_since_last_failure else counters.consecutive_failures + 1,
            "out_of_memory": counters.out_of_memory + (rule == OUT_OF_MEMORY),
        }
    )
    updated = exclude_node(updated, rule, node)
    if rule.action is Action.FAIL or (rule.fail_after is not None and updated.out_of_memory >= rule.fail_after):
        return Charge(updated, restart=False, budget=Budget.NONE)
    free_step = counters.free_checkpoint_step
    advanced_since_free_restart = free_step is None or updated.checkpoint_step > free_step
    budget = Budget.INFRA if rule.budget is Budget.FREE and not advanced_since_free_restart else rule.budget
    if budget is Budget.FREE:
        changes = {"free_restarts": updated.free_restarts + 1, "free_checkpoint_step": updated.checkpoint_step}
    else:
        used, limit, _ = limits(updated, policy)[budget]
        if used >= limit:
            return Charge(updated, restart=False, budget=Budget.NONE, exhausted=budget)
        changes = {"user_restarts" if budget is Budget.USER else "infra_restarts": used + 1}
    return Charge(updated.model_copy(update=changes), restart=True, budget=budget)


def limits(counters: RestartCounters, policy: RunPolicySpec) -> dict[Budget, tuple[int, int, str]]:
    """Return the restarts used, their limit, and what they follow, of each budget that is limited."""
    return {
        Budget.USER: (counters.user_restarts, policy.max_restarts, "program failures"),
        Budget.INFRA: (counters.infra_restarts, policy.max_infra_restarts, "infrastructure failures"),
    }
