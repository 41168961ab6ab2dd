"""Which stages a job goes through, and what it comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.stages import StageName
from unimrg_api.status import RestartCounters


def at_finish(**policy: int) -> Cluster:
    """A job whose training succeeded and that is not evaluated: its last stage is next."""
    cluster = Cluster(make_job(mode="Never", **policy))
    cluster.to_training()
    cluster.succeed("train")
    return cluster


def stages_made(cluster: Cluster) -> list[str]:
    return [name.split("-")[1] for name in cluster.created]


def end_of(cluster: Cluster, stage: StageName) -> str:
    end = cluster.status.stage(stage).attempt_end
    assert end is not None
    return end.reason


@pytest.mark.parametrize(
    ("source", "mode", "train", "expected"),
    [
        (True, "OnSuccess", "Always", ["check", "prepare", "train", "evaluate", "finish"]),
        (False, "OnSuccess", "Always", ["check", "train", "evaluate", "finish"]),
        (False, "Never", "Always", ["check", "train", "finish"]),
        (True, "OnSuccess", "Never", ["check", "prepare", "evaluate", "finish"]),
        (False, "Always", "Never", ["check", "evaluate", "finish"]),
    ],
)
def test_a_job_goes_through_the_stages_that_it_wants(source: bool, mode: str, train: str, expected: list[str]) -> None:
    cluster = Cluster(make_job(source=source, mode=mode, train=train))
    phases = []
    cluster.settle()
    while cluster.status.phase != "Succeeded":
        phases.append(cluster.status.phase)
        cluster.succeed(cluster.current)
    assert stages_made(cluster) == expected
    names = {"check": "Checking", "prepare": "Preparing", "train": "Running", "evaluate": "Evaluating"}
    assert phases == [names.get(stage, "Finishing") for stage in expected]
    skipped = [stage.name for stage in cluster.status.stages if stage.state == "Skipped"]
    assert sorted([*expected, *skipped]) == ["check", "evaluate", "finish", "prepare", "train"]
    assert cluster.condition("Complete") == ("True", "Succeeded")
    assert cluster.status.completion_time is not None and cluster.status.attempt == 1


def test_an_evaluation_without_a_training_fails_its_job_and_is_closed() -> None:
    cluster = Cluster(make_job(train="Never"))
    cluster.settle()
    cluster.succeed("check")
    cluster.fail("evaluate", 66)
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.condition("Failed")) == ("Failed", ("True", "EvaluateFailed"))
    assert stages_made(cluster) == ["check", "evaluate", "finish"]
    refused = Cluster(make_job(train="Never"))
    refused.settle()
    refused.fail("check", 66)
    assert refused.status.phase == "Failed" and stages_made(refused) == ["check"]


def test_without_a_training_the_attempts_of_the_evaluation_are_counted() -> None:
    cluster = Cluster(make_job(train="Never"))
    cluster.settle()
    cluster.succeed("check")
    cluster.fail("evaluate", 69)
    cluster.wait()
    cluster.succeed("evaluate")
    assert stages_made(cluster) == ["check", "evaluate", "evaluate", "finish"]
    assert (cluster.train_attempts, cluster.status.attempt) == ([1, 1, 2, 2], 2)


@pytest.mark.parametrize(
    ("stage", "code", "reason"),
    [("check", 64, "ConfigInvalid"), ("check", 77, "CredentialsDenied"), ("prepare", 65, "DataCorrupt")],
)
def test_before_the_training_a_failure_ends_the_job_at_once(stage: StageName, code: int, reason: str) -> None:
    cluster = Cluster(make_job(source=True))
    cluster.settle()
    if stage == "prepare":
        cluster.succeed("check")
    cluster.fail(stage, code)
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", reason)
    assert cluster.condition("Failed") == ("True", reason)
    assert cluster.condition("Accepted") == (("False", reason) if stage == "check" else ("True", "Valid"))
    assert stages_made(cluster)[-1] == stage
    assert [item.state for item in cluster.status.stages][-3:] == ["Skipped"] * 3
    assert cluster.published[-1].reason == "Failed"
    assert cluster.published[-1].message.startswith(f"{reason}; {stage}: pod tiny-{stage}-1")


def test_pods_that_share_a_stage_fail_together_and_succeed_together() -> None:
    cluster = Cluster(make_job(source=True, pods=3))
    cluster.settle()
    cluster.succeed("check")
    assert len(cluster.pods_of("tiny-prepare-1")) == 3
    cluster.end_pod(cluster.pod("tiny-prepare-1", 2), 0)
    cluster.settle()
    assert (cluster.status.phase, cluster.status.stage("prepare").state) == ("Preparing", "Running")
    cluster.fail("prepare", 69, rank=1)
    cluster.wait()
    assert len(cluster.pods_of("tiny-prepare-2")) == 3
    assert cluster.restart_counters("prepare").infra_restarts == 1
    for rank in (1, 2, 0):
        assert cluster.current == "prepare"
        cluster.end_pod(cluster.pod("tiny-prepare-2", rank), 0)
        cluster.settle()
    assert cluster.current == "train"


@pytest.mark.parametrize(
    ("mode", "commit", "evaluated"),
    [("OnSuccess", 5, False), ("Always", 5, True), ("Always", None, False), ("Never", 5, False)],
)
def test_a_failed_training_is_evaluated_only_always_and_with_a_commit(
    mode: str, commit: int | None, evaluated: bool
) -> None:
    cluster = Cluster(make_job(mode=mode))
    cluster.to_training()
    cluster.fail("train", 82, checkpoint_step=commit)
    assert (cluster.current == "evaluate") is evaluated
    if evaluated:
        cluster.succeed("evaluate")
    assert cluster.status.phase == "Finishing"
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "NonFiniteLoss")


def test_an_evaluation_that_fails_fails_the_job_after_finish() -> None:
    cluster = Cluster(make_job(maxRestarts=1))
    cluster.to_training()
    cluster.succeed("train")
    cluster.fail("evaluate", 70)
    cluster.wait()
    cluster.fail("evaluate", 70, message="boom")
    assert end_of(cluster, "evaluate") == "RestartsExhausted"
    assert (cluster.status.phase, cluster.status.condition("Failed")) == ("Finishing", None)
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "EvaluateFailed")
    failed = cluster.status.condition("Failed")
    assert failed is not None
    assert "boom" in failed.message


def test_finish_is_tried_three_times_and_its_failure_only_degrades() -> None:
    cluster = at_finish(maxRestarts=9)
    for _ in range(2):
        cluster.fail("finish", 70)
        assert cluster.status.phase == "Finishing"
        cluster.wait()
    cluster.fail("finish", 70)
    assert (cluster.status.phase, cluster.status.reason) == ("Succeeded", "Succeeded")
    assert cluster.condition("Degraded") == ("True", "TrackingIncomplete")
    assert cluster.created[-1] == "tiny-finish-3"
    assert cluster.published_reasons()[-3:] == ["AttemptFailed", "TrackingIncomplete", "Completed"]


@pytest.mark.parametrize("made", [True, False])
def test_finish_delays_the_end_by_ten_minutes_at_most(made: bool) -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.succeed("train")
    cluster.creation_error = None if made else ("BackendMissing", "no")
    begun = cluster.now
    cluster.succeed("evaluate")
    cluster.until(lambda: cluster.status.phase == "Succeeded", lambda: None)
    assert cluster.now == begun + 600
    assert end_of(cluster, "finish") == "DeadlineExceeded"
    assert "tiny-finish-1" not in cluster.children
    finish = cluster.status.stage("finish")
    assert (finish.running_time, finish.restart_counters.running_seconds) == (None, 600 if made else 0)
    assert cluster.condition("Degraded") == ("True", "TrackingIncomplete")


def test_the_time_of_finish_begins_once_it_could_be_made() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    child = cluster.children["tiny-train-1"]
    cluster.children[child.name] = replace(child, state="Succeeded", deleting=True)  # with a pod that still ends
    cluster.previous_job_pods = ("tiny-train-1-worker-0",)
    cluster.reconcile()
    for _ in range(2):
        cluster.now += 3600
        cluster.reconcile()
        assert (cluster.status.phase, cluster.condition("Running")[0]) == ("Finishing", "False")
        cluster.previous_job_pods = ()
    cluster.end_pod(cluster.pod(child.name), 0)
    cluster.creation_error = ("BackendMissing", "no")
    begun = cluster.now
    cluster.until(lambda: cluster.status.phase == "Succeeded", lambda: None)
    assert (end_of(cluster, "finish"), cluster.now) == ("DeadlineExceeded", begun + 600)


def test_a_job_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.deleting = True
    cluster.end_pod(cluster.pod("tiny-train-1"), 70)
    decision = cluster.decide()
    assert (decision.status, decision.actions, decision.requeue_after) == (cluster.status, (), None)


@pytest.mark.parametrize("begun", [False, True])
def test_nothing_is_made_for_a_job_that_does_not_parse(begun: bool) -> None:
    cluster = Cluster()
    if begun:
        cluster.to_training()
    before = (cluster.status.stages, list(cluster.created))
    cluster.job, cluster.parse_error = None, "spec.trainer.nodes: must be a number"
    assert cluster.reconcile().requeue_after is None
    assert (cluster.status.stages, cluster.created) == before
    assert cluster.status.phase == ("Running" if begun else "Pending")
    assert cluster.condition("Accepted") == ("False", "InvalidSpec")
    assert cluster.published_reasons()[-1:] == ["InvalidSpec"]


def test_a_success_stays_when_the_spec_of_its_ended_job_no_longer_parses() -> None:
    cluster = at_finish()
    (pod,) = cluster.pods_of("tiny-finish-1")
    cluster.end_pod(pod, 0)
    assert cluster.reconcile() and cluster.status.phase == "Succeeded"
    assert cluster.children["tiny-finish-1"].state == "Active"  # its controller is slow
    cluster.job = None
    assert cluster.decide().actions == ()


def test_what_keeps_children_from_being_made_is_shown_until_it_is_gone() -> None:
    cluster = Cluster()
    cluster.creation_error = ("BackendMissing", "there is no Training Operator")
    assert cluster.settle().requeue_after == 30.0
    assert cluster.created == []
    assert cluster.condition("Accepted") == ("False", "BackendMissing")
    assert (cluster.status.phase, cluster.status.reason) == ("Pending", "BackendMissing")
    cluster.creation_error = ("two words", "a\x1b[31m\n" + "x" * 5000)
    cluster.settle()
    assert cluster.condition("Accepted") == ("False", "Unknown")
    cluster.creation_error = None
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")
    cluster.creation_error = ("BackendMissing", "there is no Training Operator")
    cluster.fail("check", 69)
    assert cluster.reconcile().requeue_after == 10.0  # the pause is over before the creation is tried again


@pytest.mark.parametrize("stage", ["train", "finish"])
def test_a_suspended_child_waits_at_no_cost_and_goes_on(stage: StageName) -> None:
    cluster = at_finish() if stage == "finish" else Cluster(make_job(nodes=2))
    if stage == "train":
        cluster.to_training()
    cluster.suspend(cluster.children[f"tiny-{stage}-1"])
    for pod, code in zip(cluster.pods_of(f"tiny-{stage}-1"), (85, 143), strict=False):
        cluster.end_pod(pod, code)
    for _ in range(2):
        cluster.reconcile()
        assert (cluster.status.phase, cluster.condition("Running")) == ("Suspended", ("False", "Suspended"))
        cluster.now += 7200  # longer than the time limit of the last stage
    cluster.resume(cluster.children[f"tiny-{stage}-1"])
    cluster.settle()
    assert cluster.status.stage(stage).attempt == 1
    assert cluster.restart_counters(stage) == RestartCounters()
    cluster.succeed(stage)
    assert (cluster.status.stage(stage).state, cluster.condition("Degraded")[0]) == ("Succeeded", "False")
