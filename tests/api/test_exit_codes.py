"""The table of exit codes is the one that all sides agreed on."""

from __future__ import annotations

import pytest

from unimrg_api.exit_codes import RULES, Action, Budget, ExitCode, KillReason, rule

FAIL, RESTART, ELSEWHERE = Action.FAIL, Action.RESTART, Action.RESTART_ELSEWHERE
NONE, USER, INFRA, FREE = Budget.NONE, Budget.USER, Budget.INFRA, Budget.FREE

AGREED = {
    0: (Action.DONE, NONE),
    64: (FAIL, NONE),
    65: (FAIL, NONE),
    66: (FAIL, NONE),
    69: (RESTART, INFRA),
    70: (RESTART, USER),
    75: (RESTART, INFRA),
    77: (FAIL, NONE),
    80: (ELSEWHERE, INFRA),
    81: (ELSEWHERE, INFRA),
    82: (FAIL, NONE),
    83: (FAIL, NONE),
    84: (RESTART, INFRA),
    85: (RESTART, FREE),
    87: (FAIL, NONE),
    130: (RESTART, FREE),
    137: (RESTART, USER),
    143: (RESTART, USER),
}
"""Code → what follows, without a further sign from the cluster (docs/method/cluster.md)."""


def test_the_table_is_the_agreed_one() -> None:
    assert {int(code): (entry.action, entry.budget) for code, entry in RULES.items()} == AGREED
    assert set(RULES) == set(ExitCode)


@pytest.mark.parametrize("code", [1, 2, 71, 86, 127, 139, 255, -9])
def test_an_unknown_code_is_like_a_program_failure(code: int) -> None:
    assert (rule(code).action, rule(code).budget) == (RESTART, USER)


def test_what_the_cluster_says_counts_for_a_process_ended_by_a_signal_only() -> None:
    memory = rule(137, KillReason.OUT_OF_MEMORY)
    assert (memory.action, memory.budget, memory.fail_after, rule(137).fail_after) == (RESTART, USER, 2, None)
    for code in (137, 143):
        assert (rule(code, KillReason.DISRUPTED).action, rule(code, KillReason.DISRUPTED).budget) == (RESTART, FREE)
    assert rule(64, KillReason.DISRUPTED) == rule(64)
    assert rule(0, KillReason.DISRUPTED).action is Action.DONE
    assert rule(75).exclude_node_after == 2, "a second stall on one node"
