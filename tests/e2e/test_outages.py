"""Programs of a real cluster that stop for a while, and memory that ends; docs/development.md has the last results."""

from __future__ import annotations

import time

import pytest

from tests.e2e.machine import say
from tests.e2e.real_cluster import RELEASE, SYSTEM, RealCluster, phase, restarts, step
from unimrg_api.cluster import JOB_LABEL

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

OUTAGES = {"coredns": 20, "kubelet": 15, "apiserver": 50}
"""Seconds for which each program stands still, in mid-training."""


def identities(cluster: RealCluster, job: str) -> set[tuple[str, str]]:
    """Return name and uid of every child and pod of a job."""
    items = cluster.get("pytorchjobs.kubeflow.org,jobs.batch,pods", "-l", f"{JOB_LABEL}={job}")["items"]
    return {(item["metadata"]["name"], item["metadata"]["uid"]) for item in items}


def test_no_outage_restarts_a_training_or_makes_anything_twice(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("outages", steps=100_000))
    job = real_cluster.wait_for("outages", lambda found: step(found) >= 10, "at step 10", seconds=900)
    before = identities(real_cluster, "outages")

    def goes_on(after: str) -> None:
        begin, last = time.monotonic(), step(job)
        real_cluster.wait_for("outages", lambda found: step(found) > last, f"training after {after}")
        say(f"{after}: the next step was seen after {time.monotonic() - begin:.0f} s")

    for program, seconds in OUTAGES.items():
        job = real_cluster.job("outages")
        real_cluster.freeze(program, seconds)
        goes_on(f"{program} stood still for {seconds} s")
    job = real_cluster.job("outages")
    pods = ["pod", "--all", f"--namespace={SYSTEM}", "--grace-period=0", "--force"]
    real_cluster.kubectl("delete", *pods)
    real_cluster.ready(SYSTEM, RELEASE)
    goes_on("every pod of the operator was killed")
    assert phase(real_cluster.job("outages")) == "Running", "all of it happened in mid-training"
    assert identities(real_cluster, "outages") == before
    assert restarts(real_cluster.job("outages")) == 0
    real_cluster.kubectl("delete", "umj", "outages", f"--namespace={real_cluster.namespace}")


def test_too_little_memory_is_reported_with_its_field(real_cluster: RealCluster) -> None:
    real_cluster.set_values("siteProfile.resources.cpuPod.memory=300Mi")
    try:
        real_cluster.submit(real_cluster.quick_start("greedy", runPolicy={"backoffSeconds": 1}))
        job = real_cluster.wait_for("greedy", lambda found: phase(found) == "Failed", "Failed", seconds=900)
    finally:
        real_cluster.set_values()
    (failed,) = (item for item in job["status"]["conditions"] if item["type"] == "Failed")
    say(f"out of memory: {failed['message']}")
    assert restarts(job) == 1, "the second time it fails"
    assert "exit code 137, out of host memory at the limit of 300Mi (resources.cpuPod.memory" in failed["message"]
