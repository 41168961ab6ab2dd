"""What an end costs, and how long the pause after it is."""

from __future__ import annotations

import pytest

from unimrg_api.exit_codes import Budget, ExitCode, Sign, rule
from unimrg_api.job import RunPolicySpec
from unimrg_api.status import RestartCounters
from unimrg_operator.core.budgets import backoff, charge

POLICY = RunPolicySpec(max_restarts=2, max_infra_restarts=3, backoff_seconds=10, max_backoff_seconds=60)
PROGRAM, STORE, INTERRUPTED = rule(ExitCode.PROGRAM), rule(ExitCode.UNAVAILABLE), rule(ExitCode.INTERRUPTED)


def used(counters: RestartCounters) -> tuple[int, int, int]:
    return counters.user_restarts, counters.infra_restarts, counters.free_restarts


@pytest.mark.parametrize(
    ("end", "commit", "expected"),
    [
        (PROGRAM, 0, (1, 0, 0)),
        (PROGRAM, 7, (1, 0, 0)),
        (STORE, 0, (0, 1, 0)),
        (INTERRUPTED, 7, (0, 0, 1)),
        (INTERRUPTED, 0, (0, 0, 1)),
        (rule(ExitCode.KILLED, Sign.DISRUPTED), 7, (0, 0, 1)),
        (rule(ExitCode.TERMINATED, Sign.NOTHING), 7, (1, 0, 0)),
    ],
    ids=[
        "a program's failure counts as the user's",
        "with a new commit as well",
        "a store's as infrastructure's",
        "an interruption with a new commit is free",
        "so is the first before any commit",
        "and that of a pod taken away",
        "a termination that nobody explains is the user's",
    ],
)
def test_a_restart_is_counted_by_its_rule(end: object, commit: int, expected: tuple[int, int, int]) -> None:
    charged = charge(RestartCounters(), end, "node-0", commit, POLICY)  # type: ignore[arg-type]
    assert charged.restart
    assert used(charged.counters) == expected
    assert charged.counters.commit_step == commit


def test_a_restart_is_free_at_the_commit_of_a_failure_and_then_only_at_a_newer_one() -> None:
    failed = charge(RestartCounters(), PROGRAM, None, 7, POLICY)
    first = charge(failed.counters, INTERRUPTED, None, 7, POLICY)
    second = charge(first.counters, INTERRUPTED, None, 7, POLICY)
    assert (failed.counters.free_commit_step, first.counters.free_commit_step) == (None, 7)
    assert [first.budget, second.budget] == [Budget.FREE, Budget.INFRA]


def test_of_the_free_restarts_before_any_commit_all_but_the_first_are_infrastructures() -> None:
    first = charge(RestartCounters(), INTERRUPTED, None, 0, POLICY)
    second = charge(first.counters, INTERRUPTED, None, 0, POLICY)
    third = charge(second.counters, INTERRUPTED, None, 1, POLICY)
    assert [first.budget, second.budget, third.budget] == [Budget.FREE, Budget.INFRA, Budget.FREE]


def test_a_commit_pays_for_one_free_restart_only() -> None:
    first = charge(RestartCounters(), INTERRUPTED, None, 7, POLICY)
    second = charge(first.counters, INTERRUPTED, None, 7, POLICY)
    third = charge(second.counters, INTERRUPTED, None, 8, POLICY)
    assert [first.budget, second.budget, third.budget] == [Budget.FREE, Budget.INFRA, Budget.FREE]


@pytest.mark.parametrize(("end", "allowed", "budget"), [(PROGRAM, 2, Budget.USER), (STORE, 3, Budget.INFRA)])
def test_a_budget_pays_for_as_many_restarts_as_it_says(end: object, allowed: int, budget: Budget) -> None:
    counters = RestartCounters()
    for _ in range(allowed):
        charged = charge(counters, end, None, 0, POLICY)  # type: ignore[arg-type]
        assert charged.restart
        counters = charged.counters
    last = charge(counters, end, None, 0, POLICY)  # type: ignore[arg-type]
    assert (last.restart, last.exhausted, last.budget) == (False, budget, Budget.NONE)
    assert used(last.counters) == used(counters)


def test_a_rule_that_fails_restarts_nothing_and_costs_nothing() -> None:
    charged = charge(RestartCounters(), rule(ExitCode.CREDENTIALS), "node-0", 0, POLICY)
    assert (charged.restart, charged.exhausted) == (False, None)
    assert used(charged.counters) == (0, 0, 0)


def test_the_second_end_for_want_of_memory_is_the_last() -> None:
    end = rule(ExitCode.KILLED, Sign.OUT_OF_MEMORY)
    first = charge(RestartCounters(), end, None, 7, POLICY)
    second = charge(first.counters, end, None, 9, POLICY)
    assert (first.restart, second.restart, second.exhausted) == (True, False, None)
    assert second.counters.out_of_memory == 2


def test_a_faulty_node_is_left_out_at_once_and_a_stalling_one_at_the_second_time() -> None:
    faulty = charge(RestartCounters(), rule(ExitCode.GPU_FAULT), "node-3", 0, POLICY).counters
    assert faulty.excluded_nodes == ["node-3"]
    stall = rule(ExitCode.STALL)
    once = charge(faulty, stall, "node-1", 0, POLICY).counters
    elsewhere = charge(once, stall, "node-2", 0, POLICY).counters
    twice = charge(elsewhere, stall, "node-1", 0, POLICY).counters
    assert [once.excluded_nodes, elsewhere.excluded_nodes] == [["node-3"]] * 2
    assert twice.excluded_nodes == ["node-3", "node-1"]
    assert twice.stalls == {"node-1": 2, "node-2": 1}


def test_a_node_that_is_not_known_is_not_left_out() -> None:
    assert charge(RestartCounters(), rule(ExitCode.GPU_FAULT), None, 0, POLICY).counters.excluded_nodes == []


def test_at_most_sixteen_nodes_are_left_out_the_newest() -> None:
    counters = RestartCounters(excluded_nodes=[f"node-{index}" for index in range(16)])
    nodes = charge(counters, rule(ExitCode.GPU_FAULT), "node-16", 0, POLICY).counters.excluded_nodes
    assert nodes == [f"node-{index}" for index in range(1, 17)]


def test_stalls_are_counted_for_as_many_nodes_as_the_status_has_room_for() -> None:
    counters = RestartCounters(stalls={f"node-{index}": 1 for index in range(64)})
    stalls = charge(counters, rule(ExitCode.STALL), "another", 0, POLICY).counters.stalls
    assert len(stalls) == 64
    assert charge(counters, rule(ExitCode.STALL), "node-5", 0, POLICY).counters.stalls["node-5"] == 2


def test_the_pause_doubles_with_each_failure_until_a_commit_advances() -> None:
    counters, pauses = RestartCounters(), []
    for commit in (0, 0, 0, 0, 5, 5):
        counters = charge(counters, INTERRUPTED, None, commit, POLICY).counters
        pauses.append(backoff(counters, POLICY))
    assert pauses == [10, 20, 40, 60, 10, 20]


def test_no_pause_is_asked_for_and_none_is_made() -> None:
    policy = RunPolicySpec(backoff_seconds=0, max_backoff_seconds=0)
    assert backoff(RestartCounters(failures_in_a_row=1000), policy) == 0.0
    assert backoff(RestartCounters(failures_in_a_row=10**6), POLICY) == 60.0
