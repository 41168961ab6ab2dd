"""What is deleted, when, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.status import Ledger
from unimrg_operator.core.decision import DeleteChild
from unimrg_operator.core.observation import Child


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2, maxRestarts=9))
    cluster.to_training()
    return cluster


def test_a_child_that_ends_by_itself_is_kept_for_its_logs(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    cluster.wait()
    assert cluster.children["tiny-train-1"].state == "Failed"


def test_a_child_has_a_moment_to_notice_that_its_pod_has_ended(cluster: Cluster) -> None:
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
    cluster.children["tiny-train-2"] = Child("tiny-train-2", "other", "train", 2, cluster.now, "Active", Ledger())
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


def test_the_next_stage_waits_until_the_child_of_the_last_has_ended(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    cluster.reconcile()
    assert cluster.status.stage("train").state == "Succeeded"
    assert cluster.created[-1] == "tiny-train-1"
    cluster.controllers()
    cluster.reconcile()
    assert cluster.created[-1] == "tiny-evaluate-1"
