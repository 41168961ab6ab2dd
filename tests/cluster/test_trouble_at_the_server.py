"""What a real API server, scheduler and controllers say of everyday trouble is in a job's status, with a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cluster import BACKENDS, Cluster, Object
from tests.support.s3_server import S3Server
from tests.support.thread_job import job, stage

pytestmark = pytest.mark.timeout(600)

SECONDS = 30.0


def waits_for(cluster: Cluster, name: str, reason: str, seconds: float = SECONDS) -> str:
    """Return the message of the condition that explains the phase once its reason is this one."""
    found = cluster.wait_for(name, lambda found: found.get("status", {}).get("reason") == reason, seconds, reason)
    return next(str(item["message"]) for item in found["status"]["conditions"] if item["reason"] == reason)


def events(cluster: Cluster, name: str) -> list[str]:
    found: list[Object] = cluster.control_plane.get("events", f"--namespace={cluster.namespace}")["items"]
    about = [item for item in found if item["involvedObject"]["name"] == name]
    return [item["reason"] for item in about if item["type"] == "Warning"]


def test_what_keeps_pods_away_is_told_within_half_a_minute(cluster: Cluster, s3_server: S3Server) -> None:
    def a_job(name: str, **trainer: Any) -> Object:
        wanted = job(cluster, s3_server.bucket(), name)
        wanted["spec"]["trainer"] |= trainer
        return wanted

    cluster.start_operator()
    cluster.apply(a_job("claimant", volumes=[{"claimName": "scratch", "mountPath": "/scratch"}]))
    cluster.wait_for("claimant", lambda _: cluster.pods("claimant"), SECONDS)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    cluster.control_plane.apply(quota, namespace=cluster.namespace)
    cluster.apply(a_job("nobodys", serviceAccountName="nobody"))
    cluster.apply(a_job("surplus"))
    for name, reason, text in (
        ("claimant", "VolumeClaimMissing", 'PersistentVolumeClaim "scratch" does not exist; create it'),
        ("nobodys", "ServiceAccountMissing", 'ServiceAccount "nobody" does not exist; create it'),
        (
            "surplus",
            "QuotaExceeded",
            "ResourceQuota few is used up: asked for pods=1, used pods=1, allowed pods=1; wait",
        ),
    ):
        assert text in waits_for(cluster, name, reason)
        assert events(cluster, name) == [reason]
    cluster.kubectl("delete", "resourcequota", "few")
    cluster.wait_for("surplus", lambda found: found["status"]["reason"] != "QuotaExceeded", 90.0)


@pytest.mark.slow
def test_a_webhook_that_is_down_is_named_and_once_it_is_back_training_begins(
    cluster: Cluster, s3_server: S3Server
) -> None:
    wanted = job(cluster, s3_server.bucket(), "hooked")
    cluster.control_plane.processes["training-operator"].kill()
    try:
        cluster.start_operator()
        cluster.apply(wanted)
        message = waits_for(cluster, "hooked", "BackendUnavailable", 90.0)
        assert "webhook validator.pytorchjob" in message
        assert "connection refused; check that the pods of its controller run" in message
        assert not cluster.children("hooked", "train")
    finally:
        cluster.control_plane.restart("training-operator")
    cluster.wait_for("hooked", lambda _: cluster.children("hooked", "train"), 90.0)
    assert events(cluster, "hooked") == ["BackendUnavailable"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_leaves_a_machine_that_is_switched_off_and_completes(
    cluster: Cluster, s3_server: S3Server, backend: str
) -> None:
    cluster.allow_nodes()
    cluster.use_backend(backend)
    cluster.start_operator(None, "--watch-nodes")
    cluster.apply(job(cluster, s3_server.bucket(), "survivor", backend=backend))
    cluster.wait_for("survivor", lambda found: stage(found, "train").get("state") == "Running", 240.0)
    assert {pod["spec"]["nodeName"] for pod in cluster.pods("survivor", "train")} == {"node-0", "node-1"}
    cluster.kubelet.switch_off("node-1")
    try:
        cluster.wait_for("survivor", lambda _: len(cluster.pods("survivor", "train", 2)) == 2, 240.0)
        found = cluster.wait_for("survivor", lambda found: stage(found, "train").get("state") == "Running", 120.0)
        assert {pod["spec"]["nodeName"] for pod in cluster.pods("survivor", "train", 2)} == {"node-0"}
        left = [pod["spec"]["nodeName"] for pod in cluster.pods("survivor", "train", 1)]
        assert "node-1" not in left, "its pod was given up"
        cluster.wait_for_phase("survivor", "Succeeded", seconds=240.0)
    finally:
        cluster.kubelet.switch_on("node-1")
    assert stage(found, "train")["lastAttemptEnd"]["reason"] == "PodLost"
    assert stage(found, "train")["restartCounters"]["userRestarts"] == 0
