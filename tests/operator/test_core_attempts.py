"""Attempts follow each other in two phases: an end is written first, and only what was written is acted on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.exit_codes import RULES, Budget
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.core.decision import CreateChild, DeletePod


@pytest.fixture
def cluster() -> Cluster:
    """Two pods that train."""
    cluster = Cluster(make_job(nodes=2))
    cluster.to_training()
    return cluster


def test_an_attempt_starts_until_all_its_pods_run_and_remembers_them() -> None:
    cluster = Cluster(make_job(nodes=2))
    cluster.settle()
    cluster.end_pod(cluster.pod("tiny-check-1"), 0)
    cluster.controllers()
    cluster.reconcile()
    cluster.controllers()
    first, second = cluster.pods_of("tiny-train-1")
    cluster.pods[first.uid] = replace(first, phase="Running")
    cluster.reconcile()
    stage = cluster.status.stage("train")
    assert (stage.state, cluster.status.phase) == ("Starting", "Starting")
    assert stage.pod_uids == [first.uid, second.uid]
    cluster.settle()
    assert (cluster.status.stage("train").state, cluster.status.phase) == ("Running", "Running")


def test_pods_are_remembered_only_once_all_are_there_to_stay() -> None:
    cluster = Cluster(make_job(nodes=2))
    cluster.settle()
    cluster.end_pod(cluster.pod("tiny-check-1"), 0)
    cluster.controllers()
    cluster.reconcile()
    cluster.controllers()
    cluster.delete_pod(cluster.pod("tiny-train-1", 1))
    cluster.reconcile()
    assert cluster.status.stage("train").pod_uids == []
    cluster.settle()  # it is made again
    assert cluster.status.phase == "Running"
    assert cluster.created[-1] == "tiny-train-1"
    assert len(cluster.status.stage("train").pod_uids) == 2


def test_a_training_runs_until_its_end_is_known(cluster: Cluster) -> None:
    cluster.delete_pod(cluster.pod("tiny-train-1", 0))
    del cluster.pods[cluster.pod("tiny-train-1", 1).uid]
    cluster.reconcile()
    assert cluster.status.stage("train").state == "Running"


def test_the_next_attempt_waits_for_the_pods_of_the_last_and_for_the_pause(cluster: Cluster) -> None:
    cluster.delete_pod(cluster.pod("tiny-train-1", 1))
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 143)
    cluster.reconcile()
    cluster.settle()
    assert "tiny-train-2" not in cluster.children
    assert cluster.status.phase == "Restarting"
    cluster.now += 10
    cluster.settle()
    assert "tiny-train-2" not in cluster.children  # the peer still has its grace
    cluster.end_pod(cluster.pod("tiny-train-1", 0), 143)
    cluster.settle()
    child = cluster.children["tiny-train-2"]
    assert (
        child.restart_counters
        == cluster.restart_counters()
        == RestartCounters(free_restarts=1, failures_in_a_row=1, free_commit_step=0)
    )
    assert cluster.status.phase == "Running"


def test_the_pause_is_counted_from_the_end(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    decision = cluster.reconcile()
    assert decision.requeue_after == 10.0
    cluster.now += 4
    assert cluster.reconcile().requeue_after == 6.0
    cluster.wait()
    assert cluster.status.phase == "Running"
    cluster.fail("train", 70)
    assert cluster.reconcile().requeue_after == 20.0


def test_a_pod_that_does_not_end_is_deleted_by_force_only_when_the_next_attempt_waits_for_it(cluster: Cluster) -> None:
    stuck = cluster.pod("tiny-train-1", 1)
    cluster.dead_nodes.add("node-1")
    cluster.delete_pod(stuck)
    cluster.wait()  # its grace and a minute
    assert cluster.status.phase == "Restarting"
    assert list(cluster.children) == ["tiny-check-1"]
    assert stuck.uid in cluster.pods
    cluster.now += 10
    assert cluster.decide().actions == (DeletePod(stuck.name, stuck.uid),)
    cluster.settle()
    assert cluster.created[-1] == "tiny-train-1"  # its peer has the rest of its own grace
    cluster.end_pod(cluster.pod("tiny-train-1", 0), 85)
    cluster.settle()
    assert cluster.status.phase == "Running"
    assert cluster.created[-1] == "tiny-train-2"


@pytest.mark.parametrize("code", [*map(int, RULES), 1, 42])
def test_a_training_that_always_ends_alike_restarts_as_often_as_its_rule_allows(code: int) -> None:
    if code == 0:
        return
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
    trained = [name for name in cluster.created if "train" in name]
    assert len(trained) == 1 + allowed
    assert (cluster.status.reason == "RestartsExhausted") is (allowed > 0)
    assert cluster.created[-1] == "tiny-finish-1"


def test_a_drain_that_a_peer_does_not_survive_costs_nothing(cluster: Cluster) -> None:
    cluster.delete_pod(cluster.pod("tiny-train-1", 0))
    cluster.reconcile()
    cluster.now += 3
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 70)
    cluster.reconcile()  # what tells the cause may be gone in a moment
    cluster.end_pod(cluster.pod("tiny-train-1", 0), 85)
    cluster.settle()
    end = cluster.status.stage("train").end
    assert end is not None
    assert (end.reason, end.budget, end.exit_code) == ("PodLost", "Free", 70)


def test_an_end_is_the_programs_though_its_peers_are_gone_when_it_is_seen(cluster: Cluster) -> None:
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 70)
    cluster.controllers()  # its peer is asked to end, and does before the operator looks
    del cluster.pods[cluster.pod("tiny-train-1", 0).uid]
    cluster.reconcile()
    end = cluster.status.stage("train").end
    assert end is not None
    assert (end.reason, end.budget) == ("ProgramFailed", "User")


def test_the_pods_of_an_earlier_job_of_the_name_end_before_anything_is_made() -> None:
    cluster = Cluster()
    cluster.predecessors = ("tiny-train-1-worker-0", "tiny-train-1-worker-1")
    assert cluster.settle().requeue_after == 10.0
    assert cluster.created == []
    assert cluster.condition("Accepted") == ("Unknown", "PreviousJobEnding")
    assert cluster.condition("Running") == ("False", "PreviousJobEnding")
    assert (cluster.status.phase, cluster.status.reason) == ("Pending", "PreviousJobEnding")
    for name in ("Accepted", "Running"):
        said = next(condition.message for condition in cluster.status.conditions if condition.type == name)
        assert said.endswith(": tiny-train-1-worker-0, tiny-train-1-worker-1")
    cluster.predecessors = ()
    cluster.settle()
    assert cluster.created == ["tiny-check-1"]


def test_memory_runs_out_twice_and_the_job_fails(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.end_pod(cluster.pod(cluster.newest("train")), 137, reason="OOMKilled")
        for pod in cluster.pods_of(cluster.newest("train"))[1:]:
            cluster.end_pod(pod, 84)
        cluster.settle()
        if cluster.status.phase == "Restarting":
            cluster.wait()
    assert cluster.status.phase == "Finishing"
    end = cluster.status.stage("train").end
    assert end is not None
    assert (end.reason, end.action) == ("OutOfMemory", "Fail")


def test_an_interruption_is_free_if_a_commit_was_new_and_known_from_its_last_word(cluster: Cluster) -> None:
    cluster.fail("train", 85, checkpoint="ckpt/step-00000012")
    assert cluster.restart_counters() == RestartCounters(
        free_restarts=1, failures_in_a_row=1, commit_step=12, free_commit_step=12
    )
    cluster.wait()
    cluster.fail("train", 85, checkpoint="ckpt/step-00000012")
    assert (cluster.restart_counters().free_restarts, cluster.restart_counters().infra_restarts) == (1, 1)


def test_other_stages_commit_nothing_so_only_their_first_interruption_is_free() -> None:
    cluster = Cluster()
    cluster.settle()
    for step, infra in ((12, 0), (13, 1)):
        cluster.fail("check", 85, checkpoint=f"ckpt/step-{step:08d}")
        assert (cluster.restart_counters("check").free_restarts, cluster.restart_counters("check").infra_restarts) == (
            1,
            infra,
        )
        cluster.wait()


def test_a_restart_elsewhere_leaves_the_node_out_and_the_evaluation_does_so_too(cluster: Cluster) -> None:
    cluster.fail("train", 80, rank=1)
    cluster.wait()
    assert cluster.children["tiny-train-2"].restart_counters.excluded_nodes == ["node-1"]
    assert [pod.node for pod in cluster.pods_of("tiny-train-2")] == ["node-0", "node-2"]
    cluster.succeed("train")
    assert cluster.children["tiny-evaluate-1"].restart_counters == RestartCounters(excluded_nodes=["node-1"])


def test_evaluate_and_finish_have_the_last_attempt_of_the_training(cluster: Cluster) -> None:
    cluster.fail("train", 70)
    cluster.wait()
    for pod in cluster.pods_of("tiny-train-2"):
        cluster.end_pod(pod, 0)
    cluster.controllers()
    cluster.write(cluster.decide())
    assert cluster.decide().actions == (CreateChild("evaluate", 1, 2, RestartCounters()),)


def test_a_silently_recreated_pod_ends_the_attempt(cluster: Cluster) -> None:
    del cluster.pods[cluster.pod("tiny-train-1", 1).uid]
    cluster.controllers()  # Training Operator makes it again
    assert len(cluster.pods_of("tiny-train-1")) == 2
    cluster.reconcile()
    end = cluster.status.stage("train").end
    assert end is not None
    assert end.reason == "PodLost"


def test_a_child_that_somebody_deleted_is_followed_by_another(cluster: Cluster) -> None:
    del cluster.children["tiny-train-1"]
    cluster.settle()
    end = cluster.status.stage("train").end
    assert end is not None
    assert (end.reason, end.budget) == ("ChildLost", "Infra")
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 143)
    cluster.settle()
    cluster.wait()
    assert cluster.created[-1] == "tiny-train-2"


# ---- a status that is behind, or gone


def test_a_wiped_status_is_rebuilt_from_children_and_pods(cluster: Cluster) -> None:
    cluster.fail("train", 80, rank=1)
    cluster.wait()
    before = cluster.status
    wiped = cluster.decide(JobStatus())
    assert wiped.actions == ()
    forgotten = {"last_end": None}  # nothing but the status knows it
    assert wiped.status.stage("train") == before.stage("train").model_copy(update=forgotten)
    assert wiped.status.stage("check").state == "Succeeded"
    assert wiped.status.phase == "Running"


def test_a_wiped_status_finds_an_end_again_while_its_pods_are_there(cluster: Cluster) -> None:
    cluster.fail("train", 70, message="boom")
    cluster.wait()
    cluster.fail("train", 77, message="denied")
    before = cluster.status
    wiped = cluster.decide(JobStatus()).status
    assert wiped.stage("train").end == before.stage("train").end
    assert wiped.stage("train").restart_counters == before.stage("train").restart_counters


def test_stages_whose_children_are_gone_succeeded_if_a_later_one_was_begun(cluster: Cluster) -> None:
    del cluster.children["tiny-check-1"]
    decision = cluster.decide(JobStatus())
    assert decision.status.stage("check").state == "Succeeded"
    assert decision.status.stage("train").state == "Running"
    assert decision.actions == ()


def test_a_job_of_which_nothing_is_left_begins_again() -> None:
    cluster = Cluster()
    assert cluster.decide(JobStatus()).actions == (CreateChild("check", 1, 1, RestartCounters()),)


def test_nonsense_in_the_status_does_not_stop_a_job(cluster: Cluster) -> None:
    stage = cluster.status.stage("train")
    for odd in (
        stage.model_copy(update={"state": "Restarting"}),
        stage.model_copy(update={"attempt": 0}),
        stage.model_copy(update={"child_uid": "another", "pod_uids": ["another"]}),
        stage.model_copy(update={"attempt_time": None, "start_time": None, "child": None}),
    ):
        stages = [odd if known.name == "train" else known for known in cluster.status.stages]
        decision = cluster.decide(cluster.status.model_copy(update={"stages": stages}))
        assert decision.status.stage("train").state == "Running"
        assert decision.actions == ()


def test_how_an_attempt_ended_is_still_told_while_the_next_one_runs() -> None:
    cluster = Cluster(make_job(nodes=1))
    cluster.to_training()
    cluster.fail("train", 70)
    cluster.until(lambda: cluster.status.stage("train").attempt == 2, cluster.wait)
    train = cluster.status.stage("train")
    assert train.end is None
    assert train.last_end is not None
    assert train.last_end.exit_code == 70
