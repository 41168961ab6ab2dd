"""The conditions of a job, each as programs and people read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import NOON, Cluster, make_job
from unimrg_api.status import ConditionType
from unimrg_operator.core.texts import time_text


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2, stallTimeoutSeconds=300))
    cluster.to_training()
    return cluster


def message(cluster: Cluster, name: ConditionType) -> str:
    condition = cluster.status.condition(name)
    assert condition is not None
    return condition.message


# ---- Accepted


def test_a_job_is_accepted_once_its_check_succeeded() -> None:
    cluster = Cluster()
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")
    cluster.succeed("check")
    assert cluster.condition("Accepted") == ("True", "Valid")


def test_a_secret_that_is_missing_is_named_until_it_is_there() -> None:
    cluster = Cluster()
    cluster.secret_missing = True
    cluster.settle()
    assert cluster.condition("Accepted") == ("False", "SecretMissing")
    assert 'secret "keys" not found' in message(cluster, "Accepted")
    assert (cluster.status.phase, cluster.status.reason) == ("Checking", "SecretMissing")
    cluster.secret_missing = False
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")


def test_a_secret_that_is_missing_later_does_not_take_back_what_was_accepted(cluster: Cluster) -> None:
    cluster.secret_missing = True
    cluster.fail("train", 70)
    cluster.wait()
    assert cluster.condition("Accepted") == ("True", "Valid")
    assert cluster.condition("Running") == ("False", "SecretMissing")


def test_a_check_that_is_retried_says_why_until_it_succeeds() -> None:
    cluster = Cluster()
    cluster.settle()
    cluster.fail("check", 69, message="the store does not answer")
    expected = ("False", "StorageUnavailable")
    assert cluster.condition("Accepted") == expected
    assert "the store does not answer" in message(cluster, "Accepted")
    cluster.wait()
    assert cluster.created[-1] == "tiny-check-2"
    assert cluster.condition("Accepted") == expected
    assert (cluster.status.phase, cluster.status.reason) == ("Checking", "StorageUnavailable")
    cluster.succeed("check")
    assert cluster.condition("Accepted") == ("True", "Valid")


# ---- Running


def test_all_pods_run(cluster: Cluster) -> None:
    assert cluster.condition("Running") == ("True", "AllPodsRunning")
    assert message(cluster, "Running") == "train: 2 of 2 pods run"


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("", "PodsPending"),
        ("ContainerCreating", "PodsPending"),
        ("ImagePullBackOff", "ImagePull"),
        ("ErrImagePull", "ImagePull"),
        ("InvalidImageName", "ImagePull"),
        ("Unschedulable", "Unschedulable"),
    ],
)
def test_pods_that_do_not_run_say_what_they_wait_for(waiting: str, reason: str) -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.controllers()
    pod = cluster.pod("tiny-check-1")
    cluster.pods[pod.uid] = replace(pod, waiting_reason=waiting, waiting_message="0/2 nodes", warnings=("quota",))
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", reason)
    said = [f"pod tiny-check-1 waits: {waiting}: 0/2 nodes"] if waiting else []
    assert message(cluster, "Running") == "; ".join(["check: 0 of 1 pods run", *said, "quota"])


def test_what_warnings_say_about_a_child_without_pods_is_shown() -> None:
    cluster = Cluster()
    cluster.reconcile()
    child = cluster.children["tiny-check-1"]
    cluster.children[child.name] = replace(child, warnings=("violates PodSecurity",))
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", "PodsPending")
    assert message(cluster, "Running").endswith("violates PodSecurity")


def test_between_attempts_it_says_when_the_next_one_comes(cluster: Cluster) -> None:
    cluster.fail("train", 70, message="boom")
    assert cluster.condition("Running") == ("False", "Restarting")
    assert "not before 2027-01-15T08:00:10Z" in message(cluster, "Running")
    assert "boom" in message(cluster, "Running")
    assert (cluster.status.phase, cluster.status.reason) == ("Restarting", "Restarting")


def test_a_pod_that_is_being_ended_does_not_count_as_running(cluster: Cluster) -> None:
    cluster.delete_pod(cluster.pod("tiny-train-1", 1))
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", "PodsEnding")


# ---- Progressing


def test_no_report_within_a_minute_means_that_nothing_is_known(cluster: Cluster) -> None:
    assert cluster.condition("Progressing") == ("Unknown", "Starting")
    assert cluster.reconcile().requeue_after == 60.0
    cluster.now += 60
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("Unknown", "NoReport")
    cluster.report_step(cluster.pod("tiny-train-1"), 1)
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("True", "Advancing")


def test_reports_that_cease_mean_so_too(cluster: Cluster) -> None:
    cluster.report_step(cluster.pod("tiny-train-1"), 1)
    assert cluster.reconcile().requeue_after == 60.0
    cluster.now += 60
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("Unknown", "NoReport")
    assert cluster.condition("Running") == ("True", "AllPodsRunning")


def test_no_new_step_for_the_stall_timeout_is_a_stall(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    for minute in range(6):
        cluster.now = NOON + 60 * minute
        cluster.report_step(pod, 7)
        cluster.reconcile()
        expected = ("True", "Advancing") if minute < 5 else ("False", "Stalled")
        assert cluster.condition("Progressing") == expected
    cluster.report_step(pod, 8)
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("True", "Advancing")


def test_a_stage_without_steps_is_not_stalled() -> None:
    cluster = Cluster(make_job(stallTimeoutSeconds=60))
    cluster.settle()
    cluster.now += 500
    cluster.report_step(cluster.pod("tiny-check-1"), 0)
    assert cluster.report is not None
    cluster.report = replace(cluster.report, progress=cluster.report.progress.model_copy(update={"total_steps": 0}))
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("Unknown", "Starting")


# ---- Checkpointed, Degraded, Complete, Failed


def test_a_commit_is_told(cluster: Cluster) -> None:
    assert cluster.condition("Checkpointed") == ("False", "NoneYet")
    cluster.report_step(cluster.pod("tiny-train-1"), 9, commit=8)
    cluster.reconcile()
    assert cluster.condition("Checkpointed") == ("True", "Saved")
    assert message(cluster, "Checkpointed") == "step 8 at s3://bucket/run/ckpt/step-00000008/"


def test_a_node_that_is_left_out_degrades_a_job(cluster: Cluster) -> None:
    assert cluster.condition("Degraded") == ("False", "AsExpected")
    cluster.fail("train", 80)
    assert cluster.condition("Degraded") == ("True", "NodeExcluded")
    assert "node-0" in message(cluster, "Degraded")


@pytest.mark.parametrize(("code", "policy"), [(70, "maxRestarts"), (69, "maxInfraRestarts")])
def test_the_last_restart_of_a_budget_is_told(code: int, policy: str) -> None:
    cluster = Cluster(make_job(**{policy: 2}))
    cluster.to_training()
    cluster.fail("train", code)
    assert cluster.condition("Degraded") == ("False", "AsExpected")
    cluster.wait()
    cluster.fail("train", code)
    assert cluster.condition("Degraded") == ("True", "RestartBudgetLow")
    cluster.wait()
    assert cluster.condition("Degraded") == ("True", "RestartBudgetLow")
    cluster.succeed("train")
    assert cluster.condition("Degraded") == ("False", "AsExpected")


def test_the_cause_line_of_a_failure_reaches_the_condition(cluster: Cluster) -> None:
    cluster.fail("train", 82, rank=1, message="loss is NaN")
    cluster.succeed("finish")
    assert cluster.condition("Failed") == ("True", "NumericGuardExhausted")
    assert message(cluster, "Failed") == (
        "train: pod tiny-train-1-worker-1 on node-1: exit code 82, the numeric guard is exhausted; loss is NaN"
    )
    assert cluster.status.condition("Complete") is None


# ---- times


def test_a_condition_changes_its_time_with_its_status_only(cluster: Cluster) -> None:
    cluster.now += 5
    cluster.report_step(cluster.pod("tiny-train-1"), 9)
    cluster.reconcile()
    assert cluster.status.condition("Progressing").last_transition_time == time_text(NOON + 5)  # type: ignore[union-attr]
    assert cluster.status.condition("Running").last_transition_time == time_text(NOON)  # type: ignore[union-attr]
    cluster.now += 5
    cluster.report_step(cluster.pod("tiny-train-1"), 10)
    cluster.reconcile()
    condition = cluster.status.condition("Progressing")
    assert condition is not None
    assert condition.last_transition_time == time_text(NOON + 5)
    assert condition.message == "train: step 10/400"
    assert condition.observed_generation == 1


def test_messages_are_one_clean_short_line() -> None:
    cluster = Cluster()
    cluster.fault = ("two words", "a\x1b[31m\n" + "x" * 5000)
    cluster.reconcile()
    assert cluster.condition("Accepted") == ("False", "Unknown")
    assert len(message(cluster, "Accepted")) == 1024
    assert message(cluster, "Accepted").startswith("a x")
