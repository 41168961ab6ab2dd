"""A job whose training is a JobSet: through all stages, a killed worker included, with the real controller."""

from __future__ import annotations

import pytest

from tests.support.cluster import Cluster
from tests.support.s3_server import S3Server
from tests.support.thread_job import EVERY, STEPS, checkpoint_step, condition, job, rank_log, stage

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow
def test_a_training_as_a_jobset_restarts_whole_and_completes(cluster: Cluster, s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    cluster.use_backend("JobSet")
    cluster.start_operator()
    cluster.apply(job(cluster, bucket, "sets", backend="JobSet"))
    cluster.wait_for("sets", lambda found: checkpoint_step(found) >= EVERY, 300, "(a commit)")
    first = cluster.pods("sets", "train", 1)
    assert [pod["metadata"]["ownerReferences"][0]["name"] for pod in first] == ["sets-train-1-w-0"] * 2
    cluster.kubelet.kill_container(first[1]["metadata"]["name"], cluster.namespace)

    done = cluster.wait_for_phase("sets", "Succeeded", seconds=400)
    train = stage(done, "train")
    assert (train["attempt"], train["restartCounters"]["userRestarts"]) == (2, 1)
    assert train["lastAttemptEnd"]["exitCode"] == 137
    assert condition(done, "Complete")["status"] == "True"
    assert checkpoint_step(done) == STEPS
    assert "resumed from step" in rank_log(cluster, bucket, "sets", 2)
    sets = cluster.control_plane.get("jobsets.jobset.x-k8s.io", f"--namespace={cluster.namespace}")["items"]
    assert sorted((item["metadata"]["name"], item["status"]["terminalState"]) for item in sets) == [
        ("sets-train-1", "Failed"),
        ("sets-train-2", "Completed"),
    ]


@pytest.mark.long
def test_a_drained_node_of_a_jobset_costs_nothing(cluster: Cluster, s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    cluster.use_backend("JobSet")
    cluster.start_operator()
    cluster.apply(job(cluster, bucket, "drained", backend="JobSet"))
    cluster.wait_for("drained", lambda found: checkpoint_step(found) >= EVERY, 300, "(a commit)")
    leaving = cluster.pods("drained", "train", 1)[1]["metadata"]["name"]
    cluster.kubectl("delete", "pod", leaving, "--wait=false")
    train = stage(cluster.wait_for_phase("drained", "Succeeded", seconds=400), "train")
    assert (train["attempt"], train["restartCounters"]["freeRestarts"]) == (2, 1)
    assert "resumed from step" in rank_log(cluster, bucket, "drained", 2)
