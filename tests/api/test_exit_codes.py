"""The table of exit codes is the one that all sides agreed on."""

from __future__ import annotations

import pytest

from unimrg_api.exit_codes import RULES, Action, Budget, ExitCode, Sign, rule

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
    82: (FAIL, NONE),
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


def test_out_of_memory_fails_after_the_second() -> None:
    found = rule(137, Sign.OUT_OF_MEMORY)
    assert (found.action, found.budget, found.fail_after) == (RESTART, USER, 2)
    assert rule(137).fail_after is None


@pytest.mark.parametrize("code", [137, 143])
def test_a_pod_that_the_cluster_took_is_restarted_for_free(code: int) -> None:
    assert (rule(code, Sign.DISRUPTED).action, rule(code, Sign.DISRUPTED).budget) == (RESTART, FREE)


def test_a_process_that_chose_its_code_is_believed_over_the_cluster() -> None:
    assert rule(64, Sign.DISRUPTED) == rule(64)
    assert rule(0, Sign.DISRUPTED).action is Action.DONE


def test_a_second_stall_on_one_node_excludes_it() -> None:
    assert rule(75).exclude_node_after == 2
