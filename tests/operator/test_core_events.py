"""Events are told once each, when it happens."""

from __future__ import annotations

from tests.operator.simulated_cluster import Cluster, make_job
from unimrg_operator.core.decision import Event


def test_a_job_to_which_nothing_happens_tells_its_stages_and_its_end() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.succeed("train")
    cluster.succeed("finish")
    assert cluster.published_reasons() == ["StageStarted", "StageSucceeded"] * 3 + ["Completed"]
    assert cluster.published[0] == Event("Normal", "StageStarted", "check attempt 1 is tiny-check-1")


def test_a_restart_tells_the_end_what_it_cost_and_the_node_that_is_left_out() -> None:
    cluster = Cluster()
    cluster.to_training()
    cluster.published.clear()
    cluster.fail("train", 80, message="ECC error")
    cluster.wait()
    assert [(notice.type, notice.reason) for notice in cluster.published] == [
        ("Warning", "AttemptEnded"),
        ("Normal", "Restarting"),
        ("Warning", "NodeExcluded"),
        ("Normal", "StageStarted"),
    ]
    ended, restarting, excluded, _ = (notice.message for notice in cluster.published)
    assert ended.startswith("train attempt 1 ended: GpuFault; pod tiny-train-1-worker-0 on node-0: exit code 80")
    assert ended.endswith("ECC error")
    assert restarting == "train restarts after 10s; counted as Infra"
    assert excluded == "later attempts of train stay away from node-0"


def test_a_failure_is_told_with_its_reason() -> None:
    cluster = Cluster()
    cluster.settle()
    cluster.fail("check", 77, message="403")
    assert cluster.published_reasons() == ["StageStarted", "AttemptEnded", "CredentialsDenied", "Failed"]
    assert cluster.published[-1].type == "Warning"
    assert cluster.published[-1].message.startswith("CredentialsDenied; check: pod tiny-check-1")


def test_tracking_that_stays_incomplete_is_told() -> None:
    cluster = Cluster(make_job(mode="Never"))
    cluster.to_training()
    cluster.succeed("train")
    cluster.fail("finish", 77)
    assert cluster.published_reasons()[-3:] == ["AttemptEnded", "TrackingIncomplete", "Completed"]


def test_what_keeps_a_job_from_being_accepted_is_told_once() -> None:
    cluster = Cluster()
    cluster.secret_missing = True
    cluster.settle()
    cluster.now += 100
    cluster.settle()
    assert cluster.published_reasons() == ["StageStarted", "SecretMissing"]
