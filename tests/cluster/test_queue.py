"""Two jobs and a queue of Kueue with quota for one of them: who waits says why, who is pushed out loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import BACKENDS, Cluster, Object
from tests.support.s3_server import S3Server
from tests.support.thread_job import EVERY, STEPS, checkpoint_step, condition, job, rank_log, stage

pytestmark = pytest.mark.timeout(1200)

PROFILE = {"resources": {"cpuPod": {"cpu": "2", "memory": "4Gi"}, "smallPod": {"cpu": "1", "memory": "1Gi"}}}
QUOTA = {"cpu": "4", "memory": "8Gi"}
"""Of two pods that train, and of nothing beside them."""
ENDLESS = 100_000
"""Steps of a job that does not end by itself."""


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[str]:
    """A LocalQueue in the jobs' namespace with that quota, where the priority `urgent` pushes others out; its name."""
    control_plane, own = cluster.control_plane, f"{cluster.namespace}-quota"
    control_plane.start_kueue()
    version = "kueue.x-k8s.io/v1beta2"
    resources = [{"name": name, "nominalQuota": amount} for name, amount in QUOTA.items()]
    flavor = {"name": own, "resources": resources}
    control_plane.apply(
        {"apiVersion": version, "kind": "ResourceFlavor", "metadata": {"name": own}},
        {
            "apiVersion": version,
            "kind": "ClusterQueue",
            "metadata": {"name": own},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [{"coveredResources": list(QUOTA), "flavors": [flavor]}],
            },
        },
        {"apiVersion": version, "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 100},
        {
            "apiVersion": version,
            "kind": "LocalQueue",
            "metadata": {"name": "team", "namespace": cluster.namespace},
            "spec": {"clusterQueue": own},
        },
    )
    yield "team"
    cluster.kubectl("delete", "umj", "--all", "--wait=false")
    control_plane.kubectl("delete", "clusterqueue", own, "--wait=false")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_waits_its_turn_and_goes_on_after_it_was_pushed_out(
    cluster: Cluster, s3_server: S3Server, queue: str, backend: str
) -> None:
    bucket = s3_server.bucket()
    cluster.allow_queues_and_jobsets()
    cluster.start_operator(PROFILE, "--kueue")

    def apply(name: str, steps: int, **more: str) -> None:
        wanted = job(cluster, bucket, name, queue={"name": queue, **more}, backend=backend)
        wanted["spec"]["training"]["schedule"]["totalSteps"] = steps
        cluster.apply(wanted)

    def waits(found: Object) -> bool:
        expected = ("position", "flavors")  # the queue's controller says the reason after the place
        return found.get("status", {}).get("phase") == "Queued" and all(
            word in condition(found, "Admitted")["message"] for word in expected
        )

    apply("first", ENDLESS)
    cluster.wait_for("first", lambda found: stage(found, "train").get("state") == "Running", 200, "(training)")
    assert condition(cluster.job("first"), "Admitted")["reason"] == "QuotaReserved"
    apply("second", STEPS)
    found = cluster.wait_for("second", waits, 60, "(waiting)")
    admitted = condition(found, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "WaitingForQuota")
    assert (
        "second-check-1 waits in the queue team, at position 1 of this LocalQueue; couldn't assign flavors"
        in admitted["message"]
    )
    assert found["status"]["reason"] == "WaitingForQuota"

    cluster.kubectl("delete", "umj", "first")
    cluster.wait_for("second", lambda found: checkpoint_step(found) >= EVERY, 300, "(a commit)")
    apply("third", ENDLESS, priorityClass="urgent")
    found = cluster.wait_for_phase("second", "Suspended", seconds=120)
    assert (found["status"]["reason"], condition(found, "Admitted")["reason"]) == ("QueuePreempted", "Evicted")
    assert "was pushed out of its place; Preempted to accommodate" in condition(found, "Admitted")["message"]
    # Training Operator fails a child that is resumed while pods of before end; the restart would be free.
    cluster.wait_for("second", lambda _: not cluster.pods("second", "train"), 120, "(its pods gone)")
    cluster.kubectl("delete", "umj", "third")

    done = cluster.wait_for_phase("second", "Succeeded", seconds=400)
    train = stage(done, "train")
    assert train["attempt"] == 1, "a preemption began another attempt"
    assert not any(train["restartCounters"][f"{name}Restarts"] for name in ("user", "infra", "free"))
    assert "resumed from step" in rank_log(cluster, bucket, "second", 1)
    assert condition(done, "Admitted")["reason"] == "Finished"
