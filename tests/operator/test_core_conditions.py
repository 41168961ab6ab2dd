"""The conditions and events of a job, and how values become texts of the status."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import NOON, Cluster, make_job
from unimrg_api.status import ConditionType
from unimrg_operator.core.decision import Event
from unimrg_operator.core.observation import Node
from unimrg_operator.core.texts import clamp_count, format_time, one_line, parse_time, valid_reason


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(make_job(nodes=2, stallTimeoutSeconds=300))
    cluster.to_training()
    return cluster


def message(cluster: Cluster, name: ConditionType) -> str:
    condition = cluster.status.condition(name)
    assert condition is not None
    return condition.message


def test_a_missing_secret_is_named_until_it_is_there() -> None:
    cluster = Cluster()
    cluster.secret_missing = True
    cluster.settle()
    cluster.now += 100
    cluster.settle()
    assert cluster.condition("Accepted") == ("False", "SecretMissing")
    assert 'Secret "keys" does not exist; create it' in message(cluster, "Accepted")
    assert (cluster.status.phase, cluster.status.reason) == ("Checking", "SecretMissing")
    assert cluster.published_reasons() == ["StageStarted", "SecretMissing"]
    cluster.secret_missing = False
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")


def test_a_check_that_is_retried_says_why_until_it_succeeds() -> None:
    cluster = Cluster()
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")
    cluster.fail("check", 69, message="the store does not answer")
    assert "the store does not answer" in message(cluster, "Accepted")
    cluster.wait()
    assert cluster.created[-1] == "tiny-check-2"
    assert cluster.condition("Accepted") == ("False", "Unavailable")
    assert (cluster.status.phase, cluster.status.reason) == ("Checking", "Unavailable")
    cluster.succeed("check")
    assert cluster.condition("Accepted") == ("True", "Valid")


@pytest.mark.parametrize("waiting", ["", "ContainerCreating"])
def test_a_pod_that_is_being_started_is_no_trouble(waiting: str) -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.controllers()
    pod = cluster.pod("tiny-check-1")
    cluster.pods[pod.uid] = replace(pod, waiting_reason=waiting)
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", "PodsPending")
    why = "; pod tiny-check-1 waits: ContainerCreating" if waiting else ""
    assert message(cluster, "Running") == f"check: 0 of 1 pods are running{why}"
    cluster.pods[pod.uid] = replace(pod, waiting_reason=waiting, warnings=("FailedCreatePodSandBox: no address left",))
    cluster.reconcile()
    assert "FailedCreatePodSandBox: no address left" in message(cluster, "Running")
    assert cluster.published_reasons() == ["StageStarted"]


def test_a_child_without_pods_is_reported_after_a_while() -> None:
    cluster = Cluster()
    assert cluster.reconcile().requeue_after == 20.0
    assert cluster.condition("Running") == ("False", "PodsPending")
    cluster.now += 20
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", "BackendUnavailable")
    assert "no pod was made within 20 s" in message(cluster, "Running")
    assert cluster.published_reasons() == ["StageStarted", "BackendUnavailable"]
    cluster.settle()
    assert cluster.condition("Running") == ("True", "AllPodsRunning")


def test_trouble_is_one_event_however_often_its_text_changes() -> None:
    cluster = Cluster()
    cluster.reconcile()
    child = cluster.children["tiny-check-1"]
    for used in ("1", "2", "2"):
        text = (
            f"FailedCreate: Error creating: exceeded quota: pods, requested: pods=1, used: pods={used}, limited: pods=2"
        )
        cluster.children[child.name] = replace(child, warnings=(text,))
        cluster.reconcile()
        assert cluster.condition("Running") == ("False", "QuotaExceeded")
        assert cluster.status.reason == "QuotaExceeded"
        assert f"used pods={used}, allowed pods=2" in message(cluster, "Running")
    assert cluster.published_reasons() == ["StageStarted", "QuotaExceeded"]


def test_half_a_gang_says_who_waits_and_who_holds_a_place(cluster: Cluster) -> None:
    cluster.fail("train", 69)
    cluster.wait()
    cluster.controllers()
    first, second = cluster.pods_of("tiny-train-2")
    why = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    cluster.pods[first.uid] = replace(first, phase="Running", waiting_reason="")
    cluster.pods[second.uid] = replace(second, phase="Pending", waiting_reason="Unschedulable", waiting_message=why)
    cluster.reconcile()
    assert cluster.status.reason == "Unschedulable"
    assert message(cluster, "Running") == (
        "train: 1 of 2 pods are running; pod tiny-train-2-worker-1 waits: 0/2 nodes are available: 2 Insufficient "
        "nvidia.com/gpu; wait until nvidia.com/gpu is free, or ask for less: spec.trainer.gpusPerNode, "
        "spec.trainer.nodes; tiny-train-2-worker-0 holds its place for 1800 s at most"
    )


def test_running_says_how_many_pods_run_or_when_the_next_attempt_comes(cluster: Cluster) -> None:
    assert cluster.condition("Running") == ("True", "AllPodsRunning")
    assert message(cluster, "Running") == "train: 2 of 2 pods are running"
    cluster.delete_pod(cluster.pod("tiny-train-1", 1))
    cluster.reconcile()
    assert cluster.condition("Running") == ("False", "PodsTerminating")
    cluster.fail("train", 70, message="boom")
    assert cluster.condition("Running") == ("False", "Restarting")
    assert "starts after 2027-01-15T08:00:10Z" in message(cluster, "Running")
    assert "boom" in message(cluster, "Running")


def test_a_lost_node_ends_the_attempt_and_its_pod_is_given_up(cluster: Cluster) -> None:
    first, second = cluster.pods_of("tiny-train-1")
    cluster.dead_nodes.add("node-1")
    cluster.nodes = (Node("node-0", "True", NOON - 99), Node("node-1", "Unknown", cluster.now, cluster.now))
    assert cluster.settle().requeue_after == 60.0
    cluster.now += 59
    cluster.settle()
    assert cluster.status.phase == "Running"
    cluster.now += 1
    cluster.settle()
    end = cluster.status.stage("train").attempt_end
    assert end is not None
    assert (end.reason, end.budget, end.node) == ("PodLost", "Free", "node-1")
    assert "node node-1 of pod tiny-train-1-worker-1 is not ready since 2027-01-15T08:00:00Z" in end.message
    assert cluster.restart_counters().excluded_nodes == []
    cluster.wait()
    assert second.uid in cluster.pods, "its grace period is not over"
    cluster.until(lambda: cluster.status.phase == "Running", lambda: None)
    assert second.uid not in cluster.pods
    assert {pod.node for pod in cluster.pods_of("tiny-train-2")} == {"node-0", "node-2"}
    assert first.uid not in cluster.pods


def test_a_node_that_only_says_it_is_not_ready_is_not_lost(cluster: Cluster) -> None:
    cluster.nodes = (Node("node-1", "False", cluster.now),)
    cluster.now += 600
    cluster.settle()
    assert cluster.status.phase == "Running"


def test_progress_is_unknown_after_a_minute_without_a_report(cluster: Cluster) -> None:
    assert cluster.condition("Progressing") == ("Unknown", "Starting")
    for _ in range(2):
        assert cluster.reconcile().requeue_after == 60.0
        cluster.now += 60
        cluster.reconcile()
        assert cluster.condition("Progressing") == ("Unknown", "NoReport")
        assert cluster.condition("Running") == ("True", "AllPodsRunning")
        cluster.report_step(cluster.pod("tiny-train-1"), 1)
        cluster.reconcile()
        assert cluster.condition("Progressing") == ("True", "Advancing")


def test_no_new_step_for_the_stall_timeout_is_a_stall(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    for minute in range(6):
        cluster.now = NOON + 60 * minute
        cluster.report_step(pod, 7)
        cluster.reconcile()
        expected = ("True", "Advancing") if minute < 5 else ("False", "Stalled")
        assert cluster.condition("Progressing") == expected
        assert cluster.status.reason == ("AllPodsRunning" if minute < 5 else "Stalled")
    cluster.report_step(pod, 8)
    cluster.reconcile()
    assert cluster.condition("Progressing") == ("True", "Advancing")


def test_an_excluded_node_degrades_a_job(cluster: Cluster) -> None:
    assert cluster.condition("Degraded") == ("False", "NoProblems")
    cluster.fail("train", 80)
    assert cluster.condition("Degraded") == ("True", "NodeExcluded")
    assert "node-0" in message(cluster, "Degraded")


def test_trouble_with_mlflow_degrades_a_job_while_it_lasts(cluster: Cluster) -> None:
    pod = cluster.pod("tiny-train-1")
    for problem in ("MLflow at http://mlflow refuses this job's records: check the password", None):
        cluster.report_step(pod, 1, mlflow_problem=problem)
        cluster.reconcile()
        expected = ("False", "NoProblems") if problem is None else ("True", "TrackingUnavailable")
        assert cluster.condition("Degraded") == expected
        assert (problem or "") in message(cluster, "Degraded")
        assert cluster.status.reason == ("AllPodsRunning" if problem is None else "TrackingUnavailable")
    assert cluster.published_reasons().count("TrackingUnavailable") == 1


@pytest.mark.parametrize(("code", "policy"), [(70, "maxRestarts"), (69, "maxInfraRestarts")])
def test_the_last_restart_of_a_budget_degrades_a_job(code: int, policy: str) -> None:
    cluster = Cluster(make_job(**{policy: 2}))
    cluster.to_training()
    for expected in ("NoProblems", "RestartBudgetExhausted"):
        cluster.fail("train", code)
        assert cluster.condition("Degraded")[1] == expected
        cluster.wait()
    cluster.succeed("train")
    assert cluster.condition("Degraded") == ("False", "NoProblems")


def test_the_cause_of_a_failure_is_in_the_condition(cluster: Cluster) -> None:
    cluster.fail("train", 82, rank=1, message="loss is NaN")
    cluster.succeed("finish")
    assert cluster.condition("Failed") == ("True", "NonFiniteLoss")
    assert message(cluster, "Failed") == (
        "train: pod tiny-train-1-worker-1 on node-1: exit code 82, too many losses or gradients are not finite "
        "(not tried again: mend that, then delete this job and create it anew); loss is NaN"
    )
    assert cluster.status.condition("Complete") is None


def test_a_condition_changes_its_time_with_its_status_only(cluster: Cluster) -> None:
    for step in (9, 10):
        cluster.now += 5
        cluster.report_step(cluster.pod("tiny-train-1"), step)
        cluster.reconcile()
        condition = cluster.status.condition("Progressing")
        assert condition is not None
        assert (condition.last_transition_time, condition.observed_generation) == (format_time(NOON + 5), 1)
        assert condition.message == f"train: step {step}/400"


# ---- events


def test_a_job_without_incidents_publishes_its_stages_and_its_end() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.succeed("train")
    cluster.succeed("finish")
    assert cluster.published_reasons() == ["StageStarted", "StageSucceeded"] * 3 + ["Completed"]
    assert cluster.published[0] == Event("Normal", "StageStarted", "check attempt 1 started as tiny-check-1")


def test_a_restart_publishes_the_end_its_cost_and_the_excluded_node() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.published.clear()
    cluster.fail("train", 80, message="ECC error")
    cluster.wait()
    assert [(event.type, event.reason) for event in cluster.published] == [
        ("Warning", "AttemptFailed"),
        ("Normal", "Restarting"),
        ("Warning", "NodeExcluded"),
        ("Normal", "StageStarted"),
    ]
    ended, restarting, excluded, _ = (event.message for event in cluster.published)
    assert ended.startswith("train attempt 1 failed: GpuFault; pod tiny-train-1-worker-0 on node-0: exit code 80")
    assert ended.endswith("ECC error")
    assert restarting == "train restarts in 10s, charged to the Infra restart budget"
    assert excluded == "later attempts of train are not scheduled on node-0"


# ---- texts


def test_a_time_survives_its_text_and_others_are_long_ago() -> None:
    assert [parse_time(format_time(seconds)) for seconds in (0, 1_795_000_000, 200_000_000_000)] == [
        0, 1_795_000_000, 200_000_000_000,
    ]  # fmt: skip
    assert [parse_time(text) for text in (None, "", "2027-13-45T99:99:99Z", "yesterday")] == [0.0] * 4
    assert (format_time(-5.0), format_time(math.inf)) == ("1970-01-01T00:00:00Z", "9999-12-31T00:00:00Z")


def test_what_a_pod_says_becomes_one_clean_short_text() -> None:
    assert valid_reason("PreemptionByScheduler", "Disrupted") == "PreemptionByScheduler"
    assert {valid_reason(text, "X") for text in ("", "two words", "a-b", "7Up", "x" * 65, "Ä")} == {"X"}
    assert one_line("pod a:\n  \x1b[31mfailed\x1b[0m", "", "it said: no") == "pod a: failed; it said: no"
    assert len(one_line("x" * 5000)) == 1024
    assert "AKIA" not in one_line("denied for AKIAABCDEFGHIJKLMNOP")
    assert (clamp_count(-3), clamp_count(7.9), clamp_count(10**30)) == (0, 7, 10**12)
