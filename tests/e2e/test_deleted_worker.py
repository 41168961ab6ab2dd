"""A worker deleted in mid-training on a real kubelet; docs/development.md has the last result."""

from __future__ import annotations

import time

import pytest

from tests.e2e.machine import say
from tests.e2e.real_cluster import RealCluster, phase, step
from tests.support.thread_job import stage

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def test_a_deleted_worker_commits_and_the_gang_goes_on(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("deleted", steps=200))
    real_cluster.wait_for("deleted", lambda job: step(job) >= 15, "at step 15", seconds=900)
    (_, worker) = real_cluster.pods("deleted", "train")
    begin = time.monotonic()
    real_cluster.kubectl("delete", "pod", worker["metadata"]["name"], f"--namespace={real_cluster.namespace}")
    say(f"deleted worker: gone after {time.monotonic() - begin:.0f} s of its grace period of 60 s")
    assert time.monotonic() - begin < 55, "it was killed, and did not end by itself"
    real_cluster.wait_for("deleted", lambda job: stage(job, "train").get("attempt") == 2, "restarted", seconds=300)
    job = real_cluster.wait_for("deleted", lambda found: phase(found) == "Succeeded", "Succeeded", seconds=1500)
    assert stage(job, "train")["attempt"] == 2
    assert stage(job, "train")["restartCounters"]["userRestarts"] == 0
    with real_cluster.store() as store:
        listed = store.list_objects_v2(Bucket="unimrg", Prefix="deleted/logs/attempt-1/train/")["Contents"]
        kept = [store.get_object(Bucket="unimrg", Key=item["Key"])["Body"].read() for item in listed]
    assert all(kept), "the first attempt's logs are kept"
