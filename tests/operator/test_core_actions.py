"""What is deleted, when, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import NOON, Cluster, make_job
from unimrg_api.status import RestartCounters
from unimrg_operator.core.decision import DeleteChild, DeletePod
from unimrg_operator.core.observation import Child, Pod


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2, maxRestarts=9))
    cluster.to_training()
    return cluster


def test_a_child_that_ends_by_itself_is_kept_for_its_logs(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    cluster.wait()
    assert cluster.children["tiny-train-1"].state == "Failed"


def test_a_controller_has_a_moment_to_record_that_its_child_failed(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 64)
    decision = cluster.reconcile()  # Training Operator has not come to it
    assert "tiny-train-1" in cluster.children
    assert decision.requeue_after == 15.0
    cluster.now += 15
    cluster.reconcile()
    assert "tiny-train-1" not in cluster.children


def test_of_each_stage_the_last_two_failed_children_are_kept(cluster: Cluster) -> None:
    for _ in range(4):
        cluster.fail("train", 70)
        cluster.wait()
    assert sorted(cluster.children) == ["tiny-check-1", "tiny-train-3", "tiny-train-4", "tiny-train-5"]


def test_of_two_that_live_the_older_is_deleted_at_once(cluster: Cluster) -> None:
    cluster.children["tiny-train-2"] = Child(
        "tiny-train-2", "other", "train", 2, cluster.now, "Active", RestartCounters()
    )
    cluster.reconcile()
    assert sorted(cluster.children) == ["tiny-check-1", "tiny-train-2"]


def test_a_child_that_is_being_deleted_is_not_deleted_again(cluster: Cluster) -> None:
    del cluster.pods[cluster.pod("tiny-train-1", 1).uid]
    cluster.write(cluster.decide())
    assert [type(action) for action in cluster.decide().actions] == [DeleteChild]
    cluster.children["tiny-train-1"] = replace(cluster.children["tiny-train-1"], deleting=True)
    assert cluster.decide().actions == ()


def test_survivors_that_nobody_ends_are_ended_with_their_child(cluster: Cluster) -> None:
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 70)
    cluster.children["tiny-train-1"] = replace(cluster.children["tiny-train-1"], state="Failed")
    cluster.now += 10  # long enough to know the cause
    cluster.reconcile()
    assert cluster.status.phase == "Restarting"
    cluster.now += 14
    cluster.reconcile()
    assert "tiny-train-1" in cluster.children
    cluster.now += 1
    cluster.reconcile()
    assert "tiny-train-1" not in cluster.children


def test_nothing_of_a_job_that_has_ended_lives_on() -> None:
    cluster = Cluster()
    cluster.settle()
    for pod in cluster.pods_of("tiny-check-1"):
        cluster.end_pod(pod, 64)
    decision = cluster.reconcile()
    assert cluster.status.phase == "Failed"
    assert decision.requeue_after == 15.0
    cluster.now += 15
    assert cluster.reconcile().requeue_after is None
    assert cluster.children == {}


def test_a_slow_controller_of_an_attempt_that_succeeded_costs_nothing(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    cluster.reconcile()  # Training Operator has not come to it
    assert cluster.created[-1] == "tiny-evaluate-1"
    cluster.now += 3600
    cluster.reconcile()
    assert cluster.children["tiny-train-1"].state == "Active"


def test_a_pod_that_outlives_the_success_of_its_child_is_deleted_with_it(cluster: Cluster) -> None:
    child = cluster.children["tiny-train-1"]
    cluster.children[child.name] = replace(child, state="Succeeded")
    assert cluster.reconcile().requeue_after == 15.0
    assert cluster.condition("Running") == ("False", "WaitingForChild")
    cluster.now += 15
    cluster.reconcile()
    assert child.name not in cluster.children


def test_a_pod_that_still_has_its_grace_by_our_clock_is_not_ended_by_force(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    child = cluster.children["tiny-train-1"]
    cluster.now += 60
    old = Pod("late", "late", child.name, 1, "Running", 0.0, deleting_since=NOON - 500, deleting_seen=cluster.now)
    cluster.pods["late"] = old
    assert cluster.reconcile().requeue_after == 90.0
    cluster.now -= 30
    assert cluster.reconcile().requeue_after == 120.0
    cluster.now += 120
    assert cluster.decide().actions == (DeletePod("late", "late"),)
