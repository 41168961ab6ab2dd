"""A backend from an installed package takes a job through all its stages, a suspension and a lost pod included."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.operator.raw_objects import SPEC, Raw, job_object, owner, running, terminated
from tests.support.virtual_clock import VirtualClock
from unimrg_api.cluster import node_rank
from unimrg_operator.app.apply import Applier
from unimrg_operator.app.controller import Controller
from unimrg_operator.app.events import Publisher, Warnings
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.progress_poller import ProgressPoller, targets
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import decide
from unimrg_operator.kube.queue import WorkQueue

KEY = ("lab", "tiny")


class ApiServer:
    """The objects of a cluster by kind and name, with the calls of `kube.client.Client` that the operator makes."""

    def __init__(self, clock: VirtualClock) -> None:
        self.objects: dict[str, dict[str, Raw]] = {"UniMRGJob": {"tiny": job_object(status={})}}
        self.clock, self.version = clock, 1000

    def kind(self, name: str) -> dict[str, Raw]:
        return self.objects.setdefault(name, {})

    def put(self, kind: str, item: Raw) -> Raw:
        self.version += 1
        time = datetime.fromtimestamp(self.clock.now, UTC).isoformat()
        filled = {"namespace": "lab", "uid": f"uid-{self.version}", "creationTimestamp": time, **item["metadata"]}
        stored = {**item, "metadata": {**filled, "resourceVersion": str(self.version)}}
        self.kind(kind)[stored["metadata"]["name"]] = stored
        return stored

    def create(self, resource: Resource, namespace: str, body: Raw) -> Raw:
        assert body["metadata"]["name"] not in self.kind(resource.kind)
        return self.put(resource.kind, copy.deepcopy(body))

    def delete(self, resource: Resource, namespace: str, name: str, **_: Any) -> None:
        self.kind(resource.kind).pop(name, None)

    def patch_status(self, resource: Resource, namespace: str, name: str, status: Raw, **_: Any) -> Raw:
        item = self.kind(resource.kind)[name]
        merged = {key: value for key, value in {**item["status"], **status}.items() if value is not None}
        return self.put(resource.kind, {**item, "status": merged})

    def pages(self, resource: Resource, namespace: str, **_: Any) -> list[Raw]:
        return [{"metadata": {}, "items": list(self.kind(resource.kind).values())}]


class ToyCluster:
    """The operator with the toy backend, and the controllers of PodSets and Jobs."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.api = clock, ApiServer(clock)
        sources = [{"scenes": {"train": 4, "heldOut": 2, "imageSize": 32, "seed": 1}}]
        self.api.kind("UniMRGJob")["tiny"]["spec"] = {**SPEC, "data": {**SPEC["data"], "sources": sources}}
        backends, metrics = SiteBackends(SiteProfile(backend="toy")), Metrics()
        queue: WorkQueue[JobKey] = WorkQueue(clock=clock)
        client: Any = self.api
        self.world = World(client, backends, ["lab"], lambda _: None, metrics)
        applier = Applier(client, backends, Publisher(client).publish, lambda *_: None, lambda *_: None, clock=clock)
        poller = ProgressPoller(list, lambda _: None)
        self.controller = Controller(
            self.world, backends, queue, applier, decide, poller, Warnings(client), metrics, clock=clock
        )

    def step(self) -> None:
        """The controllers act, the operator's watches bring it, and it reconciles."""
        self.controllers()
        for reflector in self.world.reflectors():
            reflector.reason = ""
            reflector.cache.replace(
                reflector.cache.pack(reflector._prune(item)) for item in self.api.kind(reflector.resource.kind).values()
            )
        self.controller.reconcile(KEY)
        self.clock.now += 1

    def controllers(self) -> None:
        for child in list(self.api.kind("PodSet").values()):
            if not child.get("status"):
                for rank in range(child["spec"]["size"]):
                    self.make_job(child, rank)
        for job in list(self.api.kind("Job").values()):
            metadata = job["metadata"]
            if "template" in job["spec"] and metadata["name"] not in self.api.kind("Pod") and not job.get("status"):
                self.make_pod(job)

    def make_job(self, child: Raw, rank: int) -> None:
        name = f"{child['metadata']['name']}-{rank}"
        if name not in self.api.kind("Job"):
            template = copy.deepcopy(child["spec"]["template"])
            template["metadata"].setdefault("annotations", {})["toys.example/index"] = str(rank)
            owners = [owner("PodSet", child["metadata"]["name"], child["metadata"]["uid"])]
            metadata = {"name": name, "labels": child["spec"]["labels"], "ownerReferences": owners}
            self.api.put("Job", {"metadata": metadata, "spec": {"template": template}})

    def make_pod(self, job: Raw) -> None:
        name, template = job["metadata"]["name"], copy.deepcopy(job["spec"]["template"])
        owners = [owner("Job", name, job["metadata"]["uid"])]
        metadata = {**template["metadata"], "name": name, "ownerReferences": owners}
        self.api.put("Pod", {"metadata": metadata, "spec": template["spec"], "status": running()})

    def end(self, stage: str, code: int = 0) -> None:
        """Let the stage's pods end; no controller records it."""
        finished = datetime.fromtimestamp(self.clock.now, UTC).isoformat()
        for pod in self.pods(stage):
            self.api.put("Pod", {**pod, "status": terminated(code, finishedAt=finished)})

    def through(self, phase: str, stage: str) -> None:
        """Let a stage begin and succeed."""
        self.until(phase)
        self.step()
        self.end(stage)

    def to_training(self) -> None:
        self.through("Checking", "check")
        self.through("Preparing", "prepare")
        self.until("Running")

    def pods(self, stage: str) -> list[Raw]:
        return [pod for name, pod in self.api.kind("Pod").items() if name.startswith(f"tiny-{stage}-")]

    def set_status(self, kind: str, name: str, **status: str) -> None:
        self.api.put(kind, {**self.api.kind(kind)[name], "status": status})

    @property
    def status(self) -> Raw:
        status: Raw = self.api.kind("UniMRGJob")["tiny"]["status"]
        return status

    def until(self, phase: str) -> None:
        for _ in range(20):
            if self.status.get("phase") == phase:
                return
            self.step()
        raise AssertionError(f"{self.status.get('phase')}: {self.status.get('conditions')}")


@pytest.fixture
def cluster(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> ToyCluster:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "toys")
    virtual_clock.now = 1_795_000_000.0
    return ToyCluster(virtual_clock)


def test_a_backend_from_a_package_takes_a_job_through_all_its_stages(cluster: ToyCluster) -> None:
    cluster.to_training()
    assert sorted(node_rank(pod) for pod in cluster.pods("train")) == [0, 1]
    assert [target.pod_uid for target in targets(cluster.world.pods_of_children())] == [
        cluster.api.kind("Pod")["tiny-train-1-0"]["metadata"]["uid"]
    ]
    cluster.set_status("PodSet", "tiny-train-1", **{"is": "Paused"})
    for rank in range(2):
        cluster.api.kind("Pod").pop(f"tiny-train-1-{rank}")
        cluster.api.kind("Job").pop(f"tiny-train-1-{rank}")
    cluster.until("Suspended")
    resumed = datetime.fromtimestamp(cluster.clock.now, UTC).isoformat()
    cluster.set_status("PodSet", "tiny-train-1", **{"is": "Going", "resumed": resumed})
    for rank in range(2):
        cluster.make_job(cluster.api.kind("PodSet")["tiny-train-1"], rank)
    cluster.until("Running")
    assert cluster.status["attempt"] == 1
    cluster.end("train")
    cluster.through("Evaluating", "evaluate")
    cluster.through("Finishing", "finish")
    cluster.until("Succeeded")


def test_a_failed_pod_behind_a_job_restarts_the_attempt(cluster: ToyCluster) -> None:
    cluster.to_training()
    cluster.end("train", 70)
    cluster.set_status("PodSet", "tiny-train-1", **{"is": "Broken"})
    cluster.until("Restarting")
    assert "tiny-train-1-" in str(cluster.status["stages"][2]["attemptEnd"]["pod"])
