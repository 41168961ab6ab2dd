"""What is deleted, when, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import NOON, Cluster, make_job
from unimrg_api.status import Ledger, StageStatus
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


def test_a_child_that_never_notices_its_success_is_deleted_so_that_the_job_goes_on(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    decision = cluster.reconcile()  # Training Operator is away
    assert decision.requeue_after == 15.0
    assert cluster.condition("Running") == ("False", "WaitingForChild")
    assert (cluster.status.phase, cluster.status.reason) == ("Evaluating", "WaitingForChild")
    running = cluster.status.condition("Running")
    assert running is not None
    assert running.message == "evaluate waits until tiny-train-1 has ended"
    cluster.now += 14
    cluster.reconcile()
    assert "tiny-train-1" in cluster.children
    cluster.now += 1
    cluster.reconcile()
    assert "tiny-train-1" not in cluster.children
    assert cluster.created[-1] == "tiny-evaluate-1"


def test_a_success_is_written_before_its_child_is_deleted(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    noticed = cluster.decide()
    assert noticed.actions == ()
    cluster.now += 100
    assert cluster.decide().actions == ()
    cluster.write(noticed)
    assert [type(action) for action in cluster.decide().actions] == [DeleteChild]


def test_a_pod_that_outlives_the_success_of_its_child_is_deleted_with_it(cluster: Cluster) -> None:
    child = cluster.children["tiny-train-1"]
    cluster.children[child.name] = replace(child, state="Succeeded")
    assert cluster.reconcile().requeue_after == 15.0
    assert cluster.condition("Running") == ("False", "WaitingForChild")
    cluster.now += 15
    cluster.reconcile()
    assert child.name not in cluster.children


@pytest.mark.parametrize("known", [True, False], ids=["that is known", "of which nothing is left to say so"])
def test_a_child_that_outlives_the_success_of_its_whole_job_is_deleted(known: bool) -> None:
    cluster = Cluster()
    cluster.settle()
    while cluster.status.phase != "Succeeded":
        cluster.succeed(cluster.current)
    if not known:
        forgotten = [StageStatus(name=stage.name, state=stage.state) for stage in cluster.status.stages]
        cluster.status = cluster.status.model_copy(update={"stages": forgotten})
    child = cluster.children["tiny-finish-1"]
    cluster.children[child.name] = replace(child, state="Active")
    decision = cluster.reconcile()
    if known:
        assert decision.requeue_after == 15.0
        cluster.now += 15
        cluster.reconcile()
    assert child.name not in cluster.children
    assert cluster.status.phase == "Succeeded"


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


def test_the_next_stage_waits_until_the_child_of_the_last_has_ended(cluster: Cluster) -> None:
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    cluster.reconcile()
    assert cluster.status.stage("train").state == "Succeeded"
    assert cluster.created[-1] == "tiny-train-1"
    cluster.controllers()
    cluster.reconcile()
    assert cluster.created[-1] == "tiny-evaluate-1"
