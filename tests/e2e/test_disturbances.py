"""A training on a real kubelet when pods, services of the machine and names fail; results: docs/development.md."""

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

SUCCEEDED = "Succeeded"


def trained_to(number: int) -> Callable[[Object], bool]:
    """Whether training has reported a step."""
    return lambda job: step(job) >= number


def told(*words: str) -> Callable[[Object], bool]:
    """Whether some condition's message has all of these words."""

    def holds(job: Object) -> bool:
        messages = [item.get("message", "") for item in job.get("status", {}).get("conditions", [])]
        return any(all(word in message for word in words) for message in messages)

    return holds


@contextlib.contextmanager
def stopped(cluster: RealCluster, program: str, seconds: float) -> Iterator[None]:
    """Stop a program of this machine's cluster for so long (SIGSTOP); skips where the cluster is elsewhere."""
    state = cluster.kubeconfig.with_name("state.json")
    if not state.exists():
        pytest.skip(f"{program} can be stopped only where this machine is the node")
    pid = json.loads(state.read_text())["pids"][program]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
        say(f"{program}: stopped for {seconds:.0f} s")


def finish(cluster: RealCluster, name: str) -> Object:
    """Wait for a job's success and return it."""
    return cluster.wait_for(name, lambda job: phase(job) == SUCCEEDED, SUCCEEDED, seconds=1500)


def test_a_deleted_worker_commits_and_the_gang_goes_on(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("deleted", steps=300))
    real_cluster.wait_for("deleted", trained_to(30), "at step 30", seconds=900)
    (_, worker) = real_cluster.pods("deleted", "train")
    begin = time.monotonic()
    real_cluster.kubectl("delete", "pod", worker["metadata"]["name"], f"--namespace={real_cluster.namespace}")
    say(f"deleted worker: gone after {time.monotonic() - begin:.0f} s")
    job = finish(real_cluster, "deleted")
    (train,) = (stage for stage in job["status"]["stages"] if stage["name"] == "train")
    assert train["attempt"] == 2
    assert train.get("restartCounters", {}).get("userRestarts", 0) == 0
    with real_cluster.store() as store:
        logs = store.list_objects_v2(Bucket="unimrg", Prefix="deleted/logs/attempt-1/train/")["Contents"]
    assert logs, "the first attempt's logs are kept"


def test_outages_around_a_training_cost_no_restart(real_cluster: RealCluster) -> None:
    real_cluster.submit(real_cluster.quick_start("outages", steps=900))
    real_cluster.wait_for("outages", trained_to(20), "at step 20", seconds=900)
    uids = {pod["metadata"]["uid"] for pod in real_cluster.pods("outages", "train")}
    for program, seconds in (("coredns", 20.0), ("kubelet", 15.0), ("apiserver", 50.0)):
        with stopped(real_cluster, program, seconds):
            pass
    real_cluster.kubectl(
        "delete", "pods", f"--namespace={SYSTEM}", "--all", "--grace-period=0", "--force", "--wait=false"
    )
    real_cluster.ready(SYSTEM, RELEASE)
    assert {pod["metadata"]["uid"] for pod in real_cluster.pods("outages", "train")} == uids
    job = finish(real_cluster, "outages")
    assert restarts(job) == 0
    assert {pod["metadata"]["uid"] for pod in real_cluster.pods("outages", "train")} == uids, "nothing was made twice"


def test_memory_that_runs_out_is_told(real_cluster: RealCluster) -> None:
    amounts = "siteProfile.resources.cpuPod.memory"
    real_cluster.set_values(f"{amounts}=350Mi")
    try:
        job = real_cluster.quick_start("memory")
        real_cluster.submit(job)
        found = real_cluster.wait_for("memory", lambda job: phase(job) == "Failed", "Failed", seconds=900)
        assert told("memory")(found)
    finally:
        real_cluster.set_values()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("no-image", {"image": "unimrg-trainer:absent"}, ["unimrg-trainer:absent"]),
        ("no-secret", {"storage": {"credentials": {"secretName": "nobody"}}}, ["nobody"]),
        ("no-host", {"storage": {"endpoint": "http://nowhere.services.svc:8333"}}, ["nowhere.services.svc"]),
    ],
)
def test_a_name_that_does_not_exist_is_told(
    real_cluster: RealCluster, name: str, change: Object, words: list[str]
) -> None:
    job = real_cluster.quick_start(name)
    for field, value in change.items():
        job["spec"][field] = {**job["spec"].get(field, {}), **value} if isinstance(value, dict) else value
    real_cluster.submit(job)
    begin = time.monotonic()
    real_cluster.wait_for(name, told(*words), f"told of {words}", seconds=300)
    say(f"{name}: told after {time.monotonic() - begin:.0f} s")
    real_cluster.kubectl("delete", "umj", name, f"--namespace={real_cluster.namespace}")
