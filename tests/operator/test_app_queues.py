"""Kueue's Workloads, as Kueue 0.17 was seen to write them: what is read of them, and whose job a change concerns."""

from __future__ import annotations

from typing import Any

from tests.operator.raw_objects import CHILD_UID, Raw, child_object, owner
from tests.operator.scripted_api import ScriptedApi
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.queues import WORKLOADS, Workloads, prune_workload
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.observation import Workload
from unimrg_operator.kube.cache import Cache

NO_QUOTA = "couldn't assign flavors to pod set worker: insufficient unused quota for nvidia.com/gpu in flavor h20"
PREEMPTED = "Preempted to accommodate a workload (UID: cedb5373) due to prioritization in the ClusterQueue"


def workload(name: str, child_uid: str, *conditions: tuple[str, str, str, str], **spec: Any) -> Raw:
    keys = ("type", "status", "reason", "message")
    return {
        "metadata": {
            "name": name,
            "namespace": "lab",
            "resourceVersion": "400",
            "creationTimestamp": "2026-11-24T10:01:01Z",
            "labels": {"kueue.x-k8s.io/job-uid": child_uid},
            "ownerReferences": [owner("PyTorchJob", "tiny-train-1", child_uid)],
        },
        "spec": {"queueName": "team", "priority": 0, "active": True, "podSets": [{"name": "worker"}], **spec},
        "status": {"conditions": [dict(zip(keys, condition, strict=True)) for condition in conditions]},
    }


WAITING = ("QuotaReserved", "False", "Pending", NO_QUOTA)


def test_a_workload_is_read_with_its_place_among_those_that_wait(api: ScriptedApi) -> None:
    queued: list[JobKey] = []
    world = World(api.client(), SiteBackends(SiteProfile()), ["lab"], queued.append, Metrics(), kueue=True)
    (reflector,) = [item for item in world.reflectors() if item.resource == WORKLOADS]
    others = [
        workload("admitted", "1", ("QuotaReserved", "True", "QuotaReserved", ""), priority=9),
        workload("elsewhere", "2", WAITING, queueName="other", priority=9),
        workload("stopped", "3", WAITING, active=False, priority=9),
        workload("done", "4", ("Finished", "True", "Succeeded", ""), priority=9),
        workload("first", "5", WAITING, priority=1),
    ]
    for item in others:
        reflector.cache.put(prune_workload(item))
    own = prune_workload(workload("own", CHILD_UID, WAITING, ("Evicted", "True", "Preempted", PREEMPTED)))
    reflector.cache.put(own)
    assert "podSets" not in own["spec"]
    assert world.workloads("lab", {CHILD_UID}) == (
        Workload(CHILD_UID, "team", message=NO_QUOTA, evicted=PREEMPTED, position=2),
    )

    reflector._changed((None, own))
    assert queued == []  # of no child that is known
    child = child_object()
    next(item for item in world.reflectors() if item.resource.kind == "PyTorchJob").cache.put(child)
    reflector._changed((None, own))
    assert queued == [("lab", "tiny")]
    reflector._changed((None, prune_workload(workload("own", "another", WAITING))))
    assert queued == [("lab", "tiny")]


def test_positions_are_by_priority_then_age_and_follow_every_change() -> None:
    def waiting(name: str, priority: int, second: int) -> Raw:
        item = workload(name, name, WAITING, priority=priority)
        item["metadata"]["creationTimestamp"] = f"2026-11-24T10:01:{second:02}Z"
        return prune_workload(item)

    cache = Cache()
    for item in (waiting("b", 0, 10), waiting("a", 5, 30), waiting("c", 0, 10), waiting("d", 0, 5)):
        cache.put(item)
    workloads = Workloads(cache)
    assert [found.position for found in workloads.of(["a", "d", "b", "c", "no one"])] == [1, 2, 3, 4]
    cache.remove("d")
    cache.put(waiting("c", 7, 10))
    assert [found.position for found in workloads.of(["c", "a", "b", "d"])] == [1, 2, 3]


def test_workloads_are_looked_at_only_where_the_operator_is_told_to_and_may(api: ScriptedApi) -> None:
    world = World(api.client(), SiteBackends(SiteProfile()), ["lab"], lambda _: None, Metrics())
    assert world.workloads("lab", {CHILD_UID}) is None
    assert WORKLOADS not in {item.resource for item in world.reflectors()}
    world = World(api.client(), SiteBackends(SiteProfile()), ["lab"], lambda _: None, Metrics(), kueue=True)
    (reflector,) = [item for item in world.reflectors() if item.resource == WORKLOADS]
    assert world.workloads("lab", {CHILD_UID}) == ()
    reflector.hidden = True
    assert world.workloads("lab", {CHILD_UID}) is None
