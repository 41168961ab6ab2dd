"""A training on a real kubelet when pods, services of the machine and memory fail; results: docs/development.md."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.machine import say
from tests.e2e.real_cluster import RELEASE, SYSTEM, Object, RealCluster, phase, restarts, step

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def trained_to(number: int) -> Callable[[Object], bool]:
    """Whether training has reported a step."""
    return lambda job: step(job) >= number


@contextlib.contextmanager
def stopped(cluster: RealCluster, program: str) -> Iterator[None]:
    """A program of this machine's cluster stands still (SIGSTOP); skips where the cluster is elsewhere."""
    state = cluster.kubeconfig.with_name("state.json")
    if not state.exists():
        pytest.skip(f"{program} can be stopped only where this machine is the node")
    pid = json.loads(state.read_text())["pids"][program]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def finish(cluster: RealCluster, name: str) -> Object:
    """Wait for a job's success and return it."""
    return cluster.wait_for(name, lambda job: phase(job) == "Succeeded", "Succeeded", seconds=1500)


def train(job: Object) -> Object:
    """The status of the stage train."""
    (found,) = (stage for stage in job["status"]["stages"] if stage["name"] == "train")
    return dict(found)


def test_a_deleted_worker_commits_and_the_gang_goes_on(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("deleted", steps=200))
    real_cluster.wait_for("deleted", trained_to(15), "at step 15", seconds=900)
    (_, worker) = real_cluster.pods("deleted", "train")
    begin = time.monotonic()
    real_cluster.kubectl("delete", "pod", worker["metadata"]["name"], f"--namespace={real_cluster.namespace}")
    say(f"deleted worker: gone after {time.monotonic() - begin:.0f} s of its grace period of 60 s")
    assert time.monotonic() - begin < 55, "it was killed, and did not end by itself"
    real_cluster.wait_for("deleted", lambda job: train(job).get("attempt") == 2, "restarted", seconds=300)
    job = finish(real_cluster, "deleted")
    assert train(job)["attempt"] == 2
    assert train(job).get("restartCounters", {}).get("userRestarts", 0) == 0
    with real_cluster.store() as store:
        listed = store.list_objects_v2(Bucket="unimrg", Prefix="deleted/logs/attempt-1/train/")["Contents"]
        kept = [store.get_object(Bucket="unimrg", Key=item["Key"])["Body"].read() for item in listed]
    assert all(kept), "the first attempt's logs are kept"


def test_outages_around_a_training_cost_no_restart(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("outages", steps=600))
    real_cluster.wait_for("outages", trained_to(10), "at step 10", seconds=900)
    uids = {pod["metadata"]["uid"] for pod in real_cluster.pods("outages", "train")}
    for program, seconds in (("coredns", 20), ("kubelet", 15), ("apiserver", 50)):
        with stopped(real_cluster, program):
            time.sleep(seconds)  # the outage itself
        say(f"{program} stood still for {seconds} s")
    deleting = ["--all", "--grace-period=0", "--force", "--wait=false"]
    real_cluster.kubectl("delete", "pods", f"--namespace={SYSTEM}", *deleting)
    real_cluster.ready(SYSTEM, RELEASE)
    assert phase(real_cluster.job("outages")) == "Running", "training was over before the last outage"
    job = finish(real_cluster, "outages")
    assert restarts(job) == 0
    assert {pod["metadata"]["uid"] for pod in real_cluster.pods("outages", "train")} == uids, "nothing was made twice"


def test_memory_that_runs_out_is_told_with_limit_and_field(real_cluster: RealCluster) -> None:
    real_cluster.set_values("siteProfile.resources.cpuPod.memory=250Mi", "siteProfile.sharedMemory=32Mi")
    try:
        real_cluster.submit(real_cluster.quick_start("memory", runPolicy={"maxRestarts": 0}))
        job = real_cluster.wait_for("memory", lambda found: phase(found) == "Failed", "Failed", seconds=900)
    finally:
        real_cluster.set_values()
    (failed,) = (item for item in job["status"]["conditions"] if item["type"] == "Failed" and item["status"] == "True")
    assert "out of host memory" in failed["message"]
    assert "at the limit of 250Mi (resources.cpuPod.memory in the site profile): raise it" in failed["message"]
