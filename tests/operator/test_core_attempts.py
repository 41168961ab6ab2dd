"""How an attempt ends, what it costs, when the next one begins, and what is deleted and kept.

That at most one attempt is alive, and that an end is recorded before it is acted on, is tried in test_core_model.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import NOON, Cluster, make_job
from unimrg_api.exit_codes import RULES, Budget
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.core.decision import CreateChild, DeletePod
from unimrg_operator.core.observation import Pod


@pytest.fixture
def cluster() -> Cluster:
    """Two pods that train."""
    cluster = Cluster(make_job(nodes=2, maxRestarts=9))
    cluster.to_training()
    return cluster


def test_an_attempt_is_starting_until_all_its_pods_run() -> None:
    cluster = Cluster(make_job(nodes=2))
    cluster.settle()
    cluster.end_pod(cluster.pod("tiny-check-1"), 0)
    cluster.controllers()
    cluster.reconcile()
    cluster.controllers()
    first, second = cluster.pods_of("tiny-train-1")
    cluster.delete_pod(second)
    cluster.reconcile()
    assert cluster.status.stage("train").pod_uids == []  # one that leaves before it began is no loss
    cluster.pods[second.uid] = second
    cluster.pods[first.uid] = replace(first, phase="Running")
    cluster.reconcile()
    stage = cluster.status.stage("train")
    assert (stage.state, stage.pod_uids) == ("Starting", [first.uid, second.uid])
    cluster.settle()
    assert (cluster.status.stage("train").state, cluster.status.phase) == ("Running", "Running")


def test_the_pause_is_counted_from_the_end_and_doubles(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    assert cluster.reconcile().requeue_after == 10.0
    cluster.now += 4
    assert cluster.reconcile().requeue_after == 6.0
    cluster.wait()
    assert cluster.status.phase == "Running"
    assert cluster.status.stage("train").last_attempt_end is not None
    cluster.fail("train", 70)
    assert cluster.reconcile().requeue_after == 20.0


def test_a_stuck_pod_is_deleted_by_force_once_an_attempt_waits_for_it(cluster: Cluster) -> None:
    stuck = cluster.pod("tiny-train-1", 1)
    cluster.dead_nodes.add("node-1")
    cluster.delete_pod(stuck)
    cluster.wait()  # its grace and a minute
    assert (cluster.status.phase, list(cluster.children)) == ("Restarting", ["tiny-check-1"])
    cluster.now += 10
    assert cluster.decide().actions == (DeletePod(stuck.name, stuck.uid),)
    cluster.settle()
    assert cluster.created[-1] == "tiny-train-1"  # its peer has the rest of its own grace
    cluster.end_pod(cluster.pod("tiny-train-1", 0), 85)
    cluster.settle()
    assert (cluster.status.phase, cluster.created[-1]) == ("Running", "tiny-train-2")


def test_the_grace_of_a_stuck_pod_is_counted_by_the_operators_clock(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    child = cluster.children["tiny-train-1"]
    cluster.now += 60
    late = Pod(
        "late", "late", child.name, 1, "Running", 0.0, deleting_since=NOON - 500, deletion_observed_at=cluster.now
    )
    cluster.pods["late"] = late
    assert cluster.reconcile().requeue_after == 90.0
    cluster.now -= 30
    assert cluster.reconcile().requeue_after == 120.0
    cluster.now += 120
    assert cluster.decide().actions == (DeletePod("late", "late"),)


@pytest.mark.parametrize("code", [*(int(code) for code in RULES if code), 1, 42])
def test_an_exit_code_restarts_as_often_as_its_rule_allows(code: int) -> None:
    cluster = Cluster(make_job(maxRestarts=2, maxInfraRestarts=4))
    cluster.to_training()

    def fails() -> None:
        for pod in list(cluster.pods.values()):
            if pod.phase == "Running":
                cluster.end_pod(pod, code if pod.child.startswith("tiny-train") else 0)

    cluster.until(lambda: cluster.status.phase == "Failed", fails)
    rule = RULES.get(code)  # type: ignore[call-overload]
    budget = rule.budget if rule is not None else Budget.USER
    allowed = {Budget.NONE: 0, Budget.USER: 2, Budget.INFRA: 4, Budget.FREE: 1 + 4}[budget]
    assert len([name for name in cluster.created if "train" in name]) == 1 + allowed
    assert (cluster.status.reason == "RestartsExhausted") is (allowed > 0)
    assert cluster.created[-1] == "tiny-finish-1"


def test_an_earlier_job_of_the_same_name_has_to_end_first() -> None:
    cluster = Cluster()
    cluster.previous_job_pods = ("tiny-train-1-worker-0", "tiny-train-1-worker-1")
    assert cluster.settle().requeue_after == 10.0
    assert cluster.created == []
    assert (cluster.status.phase, cluster.status.reason) == ("Pending", "PreviousJobEnding")
    accepted = cluster.status.condition("Accepted")
    assert accepted is not None
    assert accepted.message.endswith(": tiny-train-1-worker-0, tiny-train-1-worker-1")


def test_a_stage_that_does_not_train_has_no_commits() -> None:
    cluster = Cluster()
    cluster.settle()
    for step, infra in ((12, 0), (13, 1)):
        cluster.fail("check", 85, checkpoint_step=step)
        assert cluster.restart_counters("check").infra_restarts == infra
        cluster.wait()


def test_a_faulty_node_is_excluded_also_from_the_evaluation(cluster: Cluster) -> None:
    cluster.fail("train", 80, rank=1)
    cluster.wait()
    assert [pod.node for pod in cluster.pods_of("tiny-train-2")] == ["node-0", "node-2"]
    for pod in cluster.pods_of("tiny-train-2"):
        cluster.end_pod(pod, 0)
    cluster.write(cluster.decide())
    excluded = RestartCounters(excluded_nodes=["node-1"])
    assert cluster.decide().actions == (CreateChild("evaluate", 1, 2, excluded),)  # of the training's attempt 2


def test_a_wiped_status_is_rebuilt_from_children_and_pods(cluster: Cluster) -> None:
    cluster.fail("train", 80, rank=1)
    cluster.wait()
    rebuilt = cluster.decide(JobStatus())
    forgotten = {"last_attempt_end": None}  # only the status has it
    assert rebuilt.status.stage("train") == cluster.status.stage("train").model_copy(update=forgotten)
    assert (rebuilt.actions, rebuilt.status.phase) == ((), "Running")
    cluster.fail("train", 77)
    assert cluster.decide(JobStatus()).status.stage("train").attempt_end == cluster.status.stage("train").attempt_end
    del cluster.children["tiny-check-1"]
    assert cluster.decide(JobStatus()).status.stage("check").state == "Succeeded"


# ---- what is deleted, when, and what is kept


def test_the_last_two_failed_children_are_kept_for_their_logs(cluster: Cluster) -> None:
    for _ in range(4):
        cluster.fail("train", 70)
        cluster.wait()
    assert sorted(cluster.children) == ["tiny-check-1", "tiny-train-3", "tiny-train-4", "tiny-train-5"]
    assert cluster.children["tiny-train-4"].state == "Failed"


@pytest.mark.parametrize("recorded", [False, True])
def test_a_failed_child_has_15_seconds_to_end_by_itself(cluster: Cluster, recorded: bool) -> None:
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 64)
    if recorded:
        cluster.children["tiny-train-1"] = replace(cluster.children["tiny-train-1"], state="Failed")
    cluster.now += 10  # so long the cause may still come from a peer
    assert cluster.reconcile().requeue_after == 15.0
    cluster.now += 14
    cluster.reconcile()
    assert "tiny-train-1" in cluster.children
    cluster.now += 1
    cluster.reconcile()
    assert "tiny-train-1" not in cluster.children
