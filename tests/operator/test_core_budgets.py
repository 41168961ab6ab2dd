"""What an end costs, and how long the pause after it is.

How many restarts each budget allows is tried for every exit code in test_core_attempts.py.
"""

from __future__ import annotations

import pytest

from unimrg_api.exit_codes import Budget, ExitCode, KillReason, Rule, rule
from unimrg_api.spec_platform import RunPolicySpec
from unimrg_api.status import RestartCounters
from unimrg_operator.core.backoff import backoff
from unimrg_operator.core.budgets import charge

POLICY = RunPolicySpec(max_restarts=2, max_infra_restarts=3, backoff_seconds=10, max_backoff_seconds=60)
PROGRAM, STORE, INTERRUPTED = rule(ExitCode.PROGRAM), rule(ExitCode.UNAVAILABLE), rule(ExitCode.INTERRUPTED)
EVICTED, TERMINATED = rule(ExitCode.KILLED, KillReason.DISRUPTED), rule(ExitCode.TERMINATED, KillReason.UNKNOWN)


def used(counters: RestartCounters) -> tuple[int, int, int]:
    return counters.user_restarts, counters.infra_restarts, counters.free_restarts


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(PROGRAM, 0), (PROGRAM, 7)], [Budget.USER, Budget.USER]),
        ([(STORE, 0)], [Budget.INFRA]),
        ([(EVICTED, 7), (TERMINATED, 7)], [Budget.FREE, Budget.USER]),
        ([(INTERRUPTED, 0), (INTERRUPTED, 0), (INTERRUPTED, 1)], [Budget.FREE, Budget.INFRA, Budget.FREE]),
        ([(INTERRUPTED, 7), (INTERRUPTED, 7), (INTERRUPTED, 8)], [Budget.FREE, Budget.INFRA, Budget.FREE]),
        ([(PROGRAM, 7), (INTERRUPTED, 7), (INTERRUPTED, 7)], [Budget.USER, Budget.FREE, Budget.INFRA]),
    ],
)
def test_a_restart_is_counted_by_its_rule_and_the_commit(ends: list[tuple[Rule, int]], expected: list[Budget]) -> None:
    counters, budgets = RestartCounters(), []
    for end, commit in ends:
        charged = charge(counters, end, "node-0", commit, POLICY)
        counters = charged.counters
        budgets.append(charged.budget)
        assert charged.restart
    assert budgets == expected
    assert used(counters) == tuple(budgets.count(budget) for budget in (Budget.USER, Budget.INFRA, Budget.FREE))


def test_an_end_for_lack_of_memory_is_tried_again_once() -> None:
    end = rule(ExitCode.KILLED, KillReason.OUT_OF_MEMORY)
    first = charge(RestartCounters(), end, None, 7, POLICY)
    second = charge(first.counters, end, None, 9, POLICY)
    assert (first.restart, second.restart, second.exhausted) == (True, False, None)


def test_a_faulty_node_is_excluded_at_once_a_stalling_one_the_second_time() -> None:
    faulty = charge(RestartCounters(), rule(ExitCode.GPU_FAULT), "node-3", 0, POLICY).counters
    stall = rule(ExitCode.STALL)
    once = charge(faulty, stall, "node-1", 0, POLICY).counters
    elsewhere = charge(once, stall, "node-2", 0, POLICY).counters
    twice = charge(elsewhere, stall, "node-1", 0, POLICY).counters
    assert [item.excluded_nodes for item in (faulty, once, elsewhere)] == [["node-3"]] * 3
    assert twice.excluded_nodes == ["node-3", "node-1"]
    unknown = charge(RestartCounters(), rule(ExitCode.GPU_FAULT), None, 0, POLICY).counters
    assert unknown.excluded_nodes == []


def test_the_newest_16_nodes_are_excluded_and_stalls_of_64_are_counted() -> None:
    counters = RestartCounters(
        excluded_nodes=[f"node-{index}" for index in range(16)], stalls={f"node-{index}": 1 for index in range(64)}
    )
    nodes = charge(counters, rule(ExitCode.GPU_FAULT), "node-16", 0, POLICY).counters.excluded_nodes
    assert nodes == [f"node-{index}" for index in range(1, 17)]
    assert len(charge(counters, rule(ExitCode.STALL), "another", 0, POLICY).counters.stalls) == 64
    assert charge(counters, rule(ExitCode.STALL), "node-5", 0, POLICY).counters.stalls["node-5"] == 2


def test_the_pause_doubles_with_each_failure_until_a_commit_advances() -> None:
    counters, pauses = RestartCounters(), []
    for commit in (0, 0, 0, 0, 5, 5):
        counters = charge(counters, INTERRUPTED, None, commit, POLICY).counters
        pauses.append(backoff(counters, POLICY))
    assert pauses == [10, 20, 40, 60, 10, 20]
    assert backoff(RestartCounters(consecutive_failures=10**6), POLICY) == 60.0
    none = RunPolicySpec(backoff_seconds=0, max_backoff_seconds=0)
    assert backoff(RestartCounters(consecutive_failures=1000), none) == 0.0
