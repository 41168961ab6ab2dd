"""Which stages a job goes through, and what it comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_api.stages import StageName
from unimrg_api.stages import wanted_stages as wanted
from unimrg_api.status import JobStatus, RestartCounters


def stages_made(cluster: Cluster) -> list[str]:
    return [name.split("-")[1] for name in cluster.created]


def states(cluster: Cluster) -> list[str]:
    return [stage.state for stage in cluster.status.stages]


def end_of(cluster: Cluster, stage: StageName) -> str:
    end = cluster.status.stage(stage).end
    assert end is not None
    return end.reason


@pytest.mark.parametrize(
    ("source", "mode", "expected"),
    [
        (True, "OnSuccess", ["check", "prepare", "train", "evaluate", "finish"]),
        (False, "OnSuccess", ["check", "train", "evaluate", "finish"]),
        (False, "Never", ["check", "train", "finish"]),
        (True, "Always", ["check", "prepare", "train", "evaluate", "finish"]),
    ],
)
def test_a_job_to_which_nothing_happens_goes_through_its_stages(source: bool, mode: str, expected: list[str]) -> None:
    cluster = Cluster(make_job(source=source, mode=mode))
    phases = []
    cluster.settle()
    while cluster.status.phase != "Succeeded":
        phases.append(cluster.status.phase)
        cluster.succeed(cluster.current)
    assert stages_made(cluster) == expected == list(wanted(cluster.job)) if cluster.job else False
    words = {"check": "Checking", "prepare": "Preparing", "train": "Running", "evaluate": "Evaluating"}
    assert phases == [words.get(stage, "Finishing") for stage in expected]
    assert {name: cluster.status.stage(name).state for name in ("prepare", "evaluate")} == {
        "prepare": "Succeeded" if source else "Skipped",
        "evaluate": "Skipped" if mode == "Never" else "Succeeded",
    }
    assert cluster.condition("Complete") == ("True", "Succeeded")
    assert cluster.status.completion_time is not None


@pytest.mark.parametrize(("code", "reason"), [(64, "ConfigInvalid"), (66, "DataMissing"), (77, "CredentialsDenied")])
def test_a_check_that_fails_ends_the_job_and_nothing_else_is_started(code: int, reason: str) -> None:
    cluster = Cluster(make_job(source=True))
    cluster.settle()
    cluster.fail("check", code, message="it is so")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", reason)
    assert cluster.condition("Failed") == ("True", reason)
    assert cluster.condition("Accepted") == ("False", reason)
    assert stages_made(cluster) == ["check"]
    assert states(cluster) == ["Failed", "Skipped", "Skipped", "Skipped", "Skipped"]


def test_a_preparation_that_fails_ends_the_job_without_finish_for_nothing_was_trained() -> None:
    cluster = Cluster(make_job(source=True))
    cluster.settle()
    cluster.succeed("check")
    cluster.fail("prepare", 65)
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "DataCorrupt")
    assert states(cluster) == ["Succeeded", "Failed", "Skipped", "Skipped", "Skipped"]


@pytest.mark.parametrize(
    ("mode", "commit", "evaluated"),
    [("OnSuccess", 5, False), ("Always", 5, True), ("Always", None, False), ("Never", 5, False)],
)
def test_a_failed_training_is_evaluated_if_it_always_is_and_there_is_a_commit(
    mode: str, commit: int | None, evaluated: bool
) -> None:
    cluster = Cluster(make_job(mode=mode))
    cluster.to_training()
    cluster.fail("train", 82, checkpoint=None if commit is None else f"ckpt/step-{commit:08d}")
    assert (cluster.current == "evaluate") is evaluated
    if evaluated:
        cluster.succeed("evaluate")
    assert cluster.status.phase == "Finishing"
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "NumericGuardExhausted")


def test_an_evaluation_that_fails_fails_the_job_after_finish() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.succeed("train")
    cluster.fail("evaluate", 66, message="no commit")
    assert cluster.status.phase == "Finishing"
    assert cluster.status.condition("Failed") is None
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.status.reason) == ("Failed", "EvaluateFailed")
    failed = cluster.status.condition("Failed")
    assert failed is not None
    assert "no commit" in failed.message


def test_every_stage_has_the_whole_budget() -> None:
    cluster = Cluster(make_job(maxRestarts=1))
    cluster.settle()
    while cluster.status.phase != "Succeeded":
        stage = cluster.current
        cluster.fail(stage, 70)
        cluster.wait()
        cluster.succeed(stage)
    assert len(cluster.created) == 8


def test_an_evaluation_uses_up_its_budget_and_fails() -> None:
    cluster = Cluster(make_job(maxRestarts=1))
    cluster.to_training()
    cluster.succeed("train")
    cluster.fail("evaluate", 70)
    cluster.wait()
    cluster.fail("evaluate", 70)
    assert end_of(cluster, "evaluate") == "RestartsExhausted"
    assert cluster.status.phase == "Finishing"


def test_finish_is_tried_three_times_and_its_failure_only_degrades() -> None:
    cluster = Cluster(make_job(maxRestarts=9))
    cluster.to_training()
    cluster.succeed("train")
    cluster.succeed("evaluate")
    for _ in range(2):
        cluster.fail("finish", 70)
        assert cluster.status.phase == "Finishing"
        cluster.wait()
    cluster.fail("finish", 70)
    assert (cluster.status.phase, cluster.status.reason) == ("Succeeded", "Succeeded")
    assert cluster.condition("Degraded") == ("True", "TrackingIncomplete")
    assert cluster.created[-1] == "tiny-finish-3"


def test_finish_keeps_a_job_for_ten_minutes_at_most() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.succeed("train")
    cluster.secret_missing = True
    cluster.succeed("evaluate")
    cluster.settle()
    cluster.secret_missing = False
    cluster.now += 599
    assert cluster.settle().requeue_after == 1.0
    cluster.now += 1
    cluster.reconcile()
    assert cluster.status.phase == "Succeeded"
    assert end_of(cluster, "finish") == "DeadlineExceeded"
    assert "tiny-finish-1" not in cluster.children
    assert cluster.condition("Degraded") == ("True", "TrackingIncomplete")


def test_finish_is_given_up_in_time_even_if_it_could_not_be_made() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.succeed("train")
    cluster.fault = ("BackendMissing", "no")
    cluster.succeed("evaluate")
    cluster.until(lambda: cluster.status.phase == "Succeeded", lambda: None)
    assert end_of(cluster, "finish") == "DeadlineExceeded"
    assert cluster.now == 1_800_000_600.0


def test_the_time_of_finish_begins_when_nothing_keeps_it_from_being_made() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    child = cluster.children["tiny-train-1"]
    cluster.children[child.name] = replace(child, state="Succeeded", deleting=True)  # with a pod that still ends
    cluster.reconcile()
    cluster.now += 3600
    cluster.reconcile()
    assert cluster.status.phase == "Finishing"
    assert cluster.condition("Running") == ("False", "WaitingForChild")
    cluster.end_pod(cluster.pod(child.name), 0)
    cluster.fault = ("BackendMissing", "no")
    begun = cluster.now
    cluster.until(lambda: cluster.status.phase == "Succeeded", lambda: None)
    assert end_of(cluster, "finish") == "DeadlineExceeded"
    assert cluster.now == begun + 600


def test_nor_does_it_begin_while_pods_of_an_earlier_job_live() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.predecessors = ("tiny-train-1-worker-0",)
    cluster.succeed("train")
    cluster.now += 3600
    cluster.settle()
    assert cluster.status.phase == "Finishing"
    cluster.predecessors = ()
    cluster.settle()
    cluster.succeed("finish")
    assert cluster.condition("Degraded") == ("False", "AsExpected")


def test_finish_is_not_given_up_where_nobody_knows_when_it_was_due() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.succeed("train")
    for name in ("tiny-check-1", "tiny-train-1"):
        del cluster.children[name]
    cluster.status = JobStatus()
    cluster.settle()
    assert cluster.status.phase == "Finishing"
    cluster.succeed("finish")
    assert cluster.condition("Degraded") == ("False", "AsExpected")


def test_a_job_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.deleting = True
    cluster.end_pod(cluster.pod("tiny-train-1"), 70)
    decision = cluster.decide()
    assert (decision.status, decision.actions, decision.requeue_after) == (cluster.status, (), None)


def test_a_job_that_does_not_parse_says_so_and_nothing_is_made() -> None:
    cluster = Cluster()
    cluster.job, cluster.problem = None, "spec.trainer.nodes: must be a number"
    decision = cluster.settle()
    assert cluster.created == []
    assert cluster.condition("Accepted") == ("False", "RenderError")
    assert (cluster.status.phase, cluster.status.reason) == ("Pending", "RenderError")
    assert decision.requeue_after is None
    assert cluster.published_reasons() == ["RenderError"]


def test_a_job_that_does_not_parse_any_more_keeps_what_it_has() -> None:
    cluster = Cluster()
    cluster.to_training()
    stages = cluster.status.stages
    cluster.job, cluster.problem = None, "spec.trainer.nodes: must be a number"
    cluster.reconcile()
    assert cluster.status.stages == stages
    assert cluster.status.phase == "Running"
    assert "tiny-train-1" in cluster.children


def test_what_keeps_children_from_being_made_does_not_hide_what_is_due_before() -> None:
    cluster = Cluster()
    cluster.settle()
    cluster.fault = ("BackendMissing", "there is no Training Operator")
    cluster.fail("check", 69)
    assert cluster.reconcile().requeue_after == 10.0  # the pause; a pod that is stuck is not left waiting either


def test_what_keeps_children_from_being_made_is_shown_and_tried_again() -> None:
    cluster = Cluster()
    cluster.fault = ("BackendMissing", "there is no Training Operator")
    assert cluster.settle().requeue_after == 60.0
    assert cluster.created == []
    assert cluster.condition("Accepted") == ("False", "BackendMissing")
    assert (cluster.status.phase, cluster.status.reason) == ("Pending", "BackendMissing")
    cluster.fault = None
    cluster.settle()
    assert cluster.condition("Accepted") == ("Unknown", "Checking")
    assert cluster.status.phase == "Checking"


def test_a_suspended_child_waits_and_goes_on_with_new_pods() -> None:
    cluster = Cluster(make_job(nodes=2))
    cluster.to_training()
    cluster.suspend(cluster.children["tiny-train-1"])
    cluster.end_pod(cluster.pod("tiny-train-1", 0), 85)
    cluster.end_pod(cluster.pod("tiny-train-1", 1), 143)
    cluster.now += 7200
    cluster.reconcile()
    assert (cluster.status.phase, cluster.condition("Running")) == ("Suspended", ("False", "Suspended"))
    assert cluster.condition("Progressing")[0] == "Unknown"
    cluster.resume(cluster.children["tiny-train-1"])
    cluster.settle()
    assert (cluster.status.phase, cluster.status.stage("train").attempt) == ("Running", 1)
    assert cluster.restart_counters() == RestartCounters()
    cluster.succeed("train")
    assert cluster.status.stage("train").state == "Succeeded"


def test_the_time_limit_of_a_stage_does_not_run_while_it_is_suspended() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.succeed("train")
    cluster.suspend(cluster.children["tiny-finish-1"])
    cluster.end_pod(cluster.pod("tiny-finish-1"), 143)
    cluster.reconcile()
    cluster.now += 7200
    cluster.reconcile()
    assert cluster.status.phase == "Suspended"
    cluster.resume(cluster.children["tiny-finish-1"])
    cluster.settle()
    cluster.succeed("finish")
    assert (cluster.status.phase, cluster.condition("Degraded")[0]) == ("Succeeded", "False")
