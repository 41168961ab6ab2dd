"""Suspension, deadlines, clean-up and the account of GPU time, each by itself.

That they keep their promises together, whatever else happens, is tried in test_core_model.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.core.decision import DeleteChild


def training(**policy: int | None) -> Cluster:
    """Two pods with a GPU each that train."""
    cluster = Cluster(make_job(nodes=2, mode="Never", **policy))
    cluster.to_training()
    return cluster


def pods_end(cluster: Cluster, code: int = 85, **record: Any) -> None:
    """Let pods end that were asked to."""
    cluster.controllers()
    for pod in [pod for pod in cluster.pods.values() if pod.deleting_since is not None]:
        cluster.end_pod(pod, code, **record)
    cluster.settle()


def end_of(cluster: Cluster, stage: StageName = "train") -> tuple[str, str, str]:
    end = cluster.status.stage(stage).attempt_end
    assert end is not None
    return end.reason, end.action, end.budget


def usage(cluster: Cluster) -> tuple[int, int, int]:
    used = cluster.status.usage
    assert used is not None
    return used.gpu_seconds, used.lost_gpu_seconds, used.idle_gpu_seconds


# ---- suspension


def test_a_suspended_job_ends_its_pods_and_is_resumed_for_nothing() -> None:
    cluster = training()
    cluster.report_step(cluster.pod("tiny-train-1"), 5, commit=7, eta_seconds=50)
    cluster.reconcile()
    cluster.suspend_job(True)
    cluster.settle()
    assert (cluster.status.phase, cluster.condition("Suspended")) == ("Suspending", ("False", "Suspending"))
    assert all(pod.deleting_since for pod in cluster.pods_of("tiny-train-1"))
    pods_end(cluster, checkpoint_step=7)
    assert "tiny-train-1" not in cluster.children
    assert (cluster.status.phase, cluster.status.reason) == ("Suspended", "UserRequested")
    assert cluster.condition("Suspended") == ("True", "UserRequested")
    shown = cluster.status.progress
    assert shown is not None and (shown.step, shown.eta) == (7, ""), "the last commit, and no time that is left"
    assert end_of(cluster) == ("Suspended", "Suspend", "None")
    cluster.now += 7200
    assert cluster.settle().requeue_after is None
    assert cluster.created[-1] == "tiny-train-1"
    cluster.suspend_job(False)
    cluster.settle()
    assert (cluster.status.phase, cluster.created[-1]) == ("Running", "tiny-train-2")
    assert cluster.condition("Suspended") == ("False", "Resumed")
    used = cluster.restart_counters()
    assert (used.user_restarts, used.infra_restarts, used.free_restarts, used.consecutive_failures) == (0, 0, 0, 0)
    assert cluster.published_reasons()[-4:] == ["Suspending", "Suspended", "Resumed", "StageStarted"]


def test_a_suspension_says_nothing_against_the_job() -> None:
    cluster = Cluster()
    cluster.settle()
    cluster.suspend_job(True)
    cluster.settle()
    pods_end(cluster, 143)
    assert cluster.condition("Accepted") == ("Unknown", "Checking")
    cluster.suspend_job(False)
    cluster.settle()
    assert (cluster.status.phase, cluster.status.reason) == ("Checking", "AllPodsRunning")
    assert {event.type for event in cluster.published} == {"Normal"}


def test_nothing_is_created_for_a_job_that_is_suspended_from_the_start() -> None:
    cluster = Cluster()
    cluster.suspend_job(True)
    assert cluster.settle().requeue_after is None
    assert (cluster.created, cluster.status.phase) == ([], "Suspended")
    cluster.suspend_job(False)
    cluster.settle()
    assert (cluster.created, cluster.status.phase) == (["tiny-check-1"], "Checking")


def test_a_failure_before_the_suspension_is_charged() -> None:
    cluster = training()
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 70)
    cluster.suspend_job(True)
    cluster.settle()
    assert cluster.status.stage("train").attempt_end is None  # an earlier failure may still be seen
    cluster.wait()
    pods_end(cluster, 143)
    assert (end_of(cluster), cluster.status.phase) == (("ProgramFailed", "Restart", "User"), "Suspended")
    cluster.now += 7200
    cluster.settle()
    assert cluster.created[-1] == "tiny-train-1"
    cluster.suspend_job(False)
    cluster.settle()
    assert cluster.created[-1] == "tiny-train-2"


def test_suspensions_of_finish_use_up_neither_its_time_nor_its_tries() -> None:
    cluster = training()
    cluster.succeed("train")
    for attempt in range(1, 5):
        assert cluster.newest("finish") == f"tiny-finish-{attempt}"
        cluster.suspend_job(True)
        cluster.settle()
        pods_end(cluster, 143)
        cluster.now += 3600
        cluster.suspend_job(False)
        cluster.settle()
    cluster.fail("finish", 70)
    cluster.wait()
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.created[-1]) == ("Succeeded", "tiny-finish-6")


# ---- deadlines


def test_training_fails_once_it_has_run_for_its_deadline() -> None:
    cluster = training(activeDeadlineSeconds=100, backoffSeconds=3600, maxBackoffSeconds=3600)
    assert cluster.reconcile().requeue_after in (60.0, 100.0)
    cluster.now += 70
    cluster.fail("train", 70)
    cluster.wait()  # an hour between two attempts
    cluster.suspend_job(True)
    cluster.settle()
    pods_end(cluster)
    cluster.now += 7200
    cluster.suspend_job(False)
    cluster.settle()
    cluster.now += 29
    assert cluster.settle().requeue_after == 1.0
    cluster.wait()
    assert end_of(cluster) == ("DeadlineExceeded", "Fail", "None")
    pods_end(cluster)
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "DeadlineExceeded")


def test_a_deadline_that_is_raised_in_time_counts_from_the_start() -> None:
    cluster = training(activeDeadlineSeconds=100)
    cluster.now += 99
    assert cluster.job is not None
    policy = cluster.job.spec.run_policy.model_copy(update={"active_deadline_seconds": 200})
    spec = cluster.job.spec.model_copy(update={"run_policy": policy})
    cluster.job = cluster.job.model_copy(update={"spec": spec})
    cluster.now += 100
    assert cluster.settle().requeue_after == 1.0
    cluster.wait()
    assert end_of(cluster)[0] == "DeadlineExceeded"


def test_a_failure_beyond_the_deadline_is_not_restarted() -> None:
    cluster = training(activeDeadlineSeconds=100)
    cluster.now += 100
    cluster.fail("train", 69, message="the store does not answer")
    assert end_of(cluster) == ("DeadlineExceeded", "Fail", "None")
    end = cluster.status.stage("train").attempt_end
    assert end is not None and "the store does not answer" in end.message


def test_half_a_gang_is_given_up_after_the_start_timeout() -> None:
    cluster = Cluster(make_job(nodes=2, startTimeoutSeconds=300))
    cluster.settle()
    cluster.places = 1
    cluster.succeed("check")
    assert [pod.phase for pod in cluster.pods_of("tiny-train-1")] == ["Running", "Pending"]
    assert cluster.reconcile().requeue_after == 300.0
    cluster.wait()
    assert end_of(cluster) == ("StartTimeout", "Restart", "Infra")
    end = cluster.status.stage("train").attempt_end
    assert end is not None
    assert end.message == (
        "1 of 2 pods ran after 300 s (runPolicy.startTimeoutSeconds), while 1 nodes were held (node-0); "
        "pod tiny-train-1-worker-1 waits: the scheduler finds no node; kubectl describe pod shows more"
    )
    pods_end(cluster, 143)
    cluster.places = 2
    cluster.wait()
    assert (cluster.status.phase, cluster.created[-1]) == ("Running", "tiny-train-2")


@pytest.mark.parametrize("slow", ["scheduler", "controller"])
def test_an_attempt_that_holds_no_node_waits_as_long_as_it_takes(slow: str) -> None:
    cluster = Cluster(make_job(nodes=2, startTimeoutSeconds=60))
    cluster.places = 0
    cluster.reconcile()
    if slow == "scheduler":
        cluster.settle()
    cluster.now += 86_400
    assert cluster.reconcile().requeue_after is None
    cluster.places = 2
    cluster.controllers()
    assert cluster.reconcile().requeue_after == 60.0
    cluster.settle()
    assert cluster.status.stage("check").state == "Running"
    assert cluster.restart_counters("check").infra_restarts == 0


# ---- clean-up


def test_the_children_of_a_finished_job_are_deleted_when_their_time_is_over() -> None:
    cluster = training(ttlSecondsAfterFinished=3600)
    cluster.succeed("train")
    cluster.succeed("finish")
    ended = cluster.status
    assert cluster.reconcile().requeue_after == 3600.0
    assert sorted(cluster.children) == ["tiny-check-1", "tiny-finish-1", "tiny-train-1"]
    cluster.wait()
    assert (cluster.children, cluster.status, cluster.reconcile().requeue_after) == ({}, ended, None)
    cluster.settle()
    assert (cluster.pods, cluster.status) == ({}, ended)


def test_failed_children_are_kept_as_long_as_the_job_says() -> None:
    cluster = training(keepFailedPodSeconds=500, maxRestarts=9, backoffSeconds=0)
    for _ in range(4):
        cluster.fail("train", 70)
        cluster.settle()
        cluster.now += 100
    assert cluster.created[-1] == "tiny-train-5"
    assert sorted(cluster.children) == ["tiny-check-1", *(f"tiny-train-{number}" for number in range(1, 6))]
    assert cluster.reconcile().requeue_after in (60.0, 100.0)
    cluster.now += 100
    cluster.reconcile()
    assert sorted(cluster.children)[1:] == [f"tiny-train-{number}" for number in range(2, 6)]


def test_an_old_failed_child_is_deleted_though_the_newest_is_gone() -> None:
    cluster = training(keepFailedPodSeconds=500, backoffSeconds=0)
    cluster.fail("train", 70)
    cluster.settle()
    del cluster.children["tiny-train-2"]
    cluster.now += 500
    cluster.reconcile()
    assert sorted(cluster.children) == ["tiny-check-1"]
    assert end_of(cluster) == ("ChildLost", "Restart", "Infra")


# ---- the account of GPU time


def test_gpu_time_is_useful_up_to_the_last_checkpoint_and_idle_before_the_start() -> None:
    cluster = Cluster(make_job(nodes=2, mode="Never"))
    cluster.settle()
    cluster.end_pod(cluster.pod("tiny-check-1"), 0)
    cluster.controllers()
    cluster.places = 1
    cluster.reconcile()
    cluster.controllers()
    cluster.now += 40  # one pod waits for the other
    cluster.places = 2
    cluster.controllers()
    cluster.now += 10  # both pull the image
    cluster.settle()
    assert (cluster.status.phase, usage(cluster)) == ("Running", (0, 0, 60))
    cluster.now += 100
    cluster.report_step(cluster.pod("tiny-train-1"), 10, commit=10)
    cluster.reconcile()
    assert usage(cluster) == (200, 0, 60)
    cluster.now += 30
    assert cluster.decide().status == cluster.status, "something is written just because time passes"
    cluster.fail("train", 70)
    assert usage(cluster) == (200, 60, 60)
    cluster.wait()
    counters = cluster.children["tiny-train-2"].restart_counters
    assert (counters.running_seconds, counters.lost_seconds, counters.idle_pod_seconds) == (130, 30, 60)
    assert usage(cluster) == (200, 60, 60)
    rebuilt = cluster.decide(JobStatus()).status
    assert rebuilt.usage == cluster.status.usage
    cluster.now += 50
    cluster.succeed("train")
    assert usage(cluster) == (300, 60, 60)


def test_an_orderly_stop_loses_nothing() -> None:
    cluster = training()
    cluster.now += 100
    cluster.suspend_job(True)
    cluster.settle()
    pods_end(cluster)
    cluster.now += 7200
    cluster.settle()
    assert usage(cluster) == (200, 0, 0)


def test_time_in_a_queue_is_no_running_time() -> None:
    cluster = training()
    cluster.now += 100
    cluster.reconcile()
    cluster.suspend(cluster.children["tiny-train-1"])
    pods_end(cluster)
    cluster.now += 7200
    cluster.settle()
    cluster.resume(cluster.children["tiny-train-1"])
    cluster.settle()
    cluster.now += 50
    cluster.succeed("train")
    assert cluster.restart_counters() == RestartCounters(running_seconds=150)
    assert usage(cluster) == (300, 0, 0)


def test_a_suspension_that_nobody_saw_ends_the_running_time() -> None:
    cluster = training(activeDeadlineSeconds=1000)
    cluster.now += 100
    cluster.reconcile()
    cluster.suspend(cluster.children["tiny-train-1"])
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 85)
    cluster.kubelets()
    cluster.now += 20
    cluster.resume(cluster.children["tiny-train-1"])
    cluster.places = 0
    cluster.settle()
    assert (cluster.status.phase, cluster.restart_counters()) == ("Starting", RestartCounters(running_seconds=121))
    cluster.now += 3600  # no pod runs
    cluster.places = 2
    cluster.settle()
    assert (cluster.status.phase, cluster.restart_counters().running_seconds) == ("Running", 121)


def test_pods_that_outlive_a_suspension_are_not_counted_twice() -> None:
    cluster = training()
    cluster.now += 100
    cluster.reconcile()
    cluster.suspend(cluster.children["tiny-train-1"])
    cluster.reconcile()
    cluster.now += 20
    cluster.resume(cluster.children["tiny-train-1"])
    cluster.reconcile()
    assert cluster.status.phase == "Starting"
    pods_end(cluster)
    cluster.now += 50
    cluster.succeed("train")
    assert cluster.restart_counters() == RestartCounters(running_seconds=150)


def test_a_job_without_gpus_has_no_account() -> None:
    cluster = training()
    assert cluster.job is not None
    trainer = cluster.job.spec.trainer.model_copy(update={"gpus_per_node": 0})
    cluster.job = cluster.job.model_copy(update={"spec": cluster.job.spec.model_copy(update={"trainer": trainer})})
    cluster.reconcile()
    assert cluster.status.usage is None


# ---- an operator that cannot see


@pytest.mark.parametrize("moment", ["training", "failed", "finished"])
def test_nothing_is_done_about_what_cannot_be_seen(moment: str) -> None:
    cluster = training(activeDeadlineSeconds=60, ttlSecondsAfterFinished=0)
    if moment == "failed":
        cluster.end_pod(cluster.pod("tiny-train-1"), 70)
    if moment == "finished":
        cluster.succeed("train")
        cluster.end_pod(cluster.pod("tiny-finish-1"), 0)
        cluster.write(cluster.decide())
    children, cluster.children, cluster.pods, cluster.complete = cluster.children, {}, {}, False
    cluster.now += 86_400
    before = cluster.status
    decision = cluster.decide()
    assert (decision.status, decision.actions, decision.requeue_after) == (before, (), 1)
    if moment == "finished":
        cluster.children, cluster.complete = children, True
        assert {type(action) for action in cluster.decide().actions} == {DeleteChild}
        cluster.children = {}
        assert (cluster.decide().status, cluster.decide().actions) == (before, ())


def test_a_child_whose_record_is_late_is_kept() -> None:
    """A slow Training Operator: every pod succeeded long ago, and nobody has written that into the child."""
    cluster = training()
    for pod in cluster.pods_of("tiny-train-1"):
        cluster.end_pod(pod, 0)
    cluster.reconcile()
    cluster.now += 500
    cluster.reconcile()
    assert cluster.children["tiny-train-1"].state == "Active"
    assert (cluster.status.phase, cluster.created[-1]) == ("Finishing", "tiny-finish-1")
