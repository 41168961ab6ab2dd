"""The nodes that an operator sees, and what it forgets while it cannot see them."""

from __future__ import annotations

import json

import pytest

from tests.operator.raw_objects import Raw, pod_object
from tests.operator.scripted_api import ScriptedApi, list_of
from tests.support.virtual_clock import VirtualClock
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.nodes import Nodes, prune_node
from unimrg_operator.app.world import World
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.observation import Node

SINCE = 1_795_514_400.0


def node_object(ready: str = "True", version: int = 1) -> Raw:
    moment = {"lastHeartbeatTime": f"2026-11-24T10:0{version}:00Z", "lastTransitionTime": "2026-11-24T10:00:00Z"}
    conditions = [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": ready, **moment}]
    metadata = {"name": "node-a", "resourceVersion": str(version), "labels": {"a": "b"}}
    return {"metadata": metadata, "status": {"conditions": conditions, "images": []}}


@pytest.fixture
def changed() -> list[str]:
    return []


@pytest.fixture
def nodes(api: ScriptedApi, changed: list[str], virtual_clock: VirtualClock) -> Nodes:
    found = Nodes(api.client(), changed.append, clock=virtual_clock)
    found.reflector.reason = ""
    return found


def take_in(nodes: Nodes, item: Raw) -> None:
    nodes.reflector._take_in(json.dumps({"type": "MODIFIED", "object": item}).encode())


def test_a_node_that_changes_is_told_and_a_heartbeat_is_not(nodes: Nodes, changed: list[str]) -> None:
    for version, ready in enumerate(("True", "True", "Unknown", "False"), 1):
        take_in(nodes, node_object(ready, version))
    assert changed == ["node-a"] * 3
    assert prune_node(node_object())["status"]["conditions"][0]["type"] == "Ready"
    assert "labels" not in prune_node(node_object())["metadata"]


def test_what_was_seen_before_an_outage_counts_from_after_it(nodes: Nodes, virtual_clock: VirtualClock) -> None:
    take_in(nodes, node_object("Unknown"))
    first = virtual_clock.now
    virtual_clock.advance(30.0)
    assert nodes.of(["node-a", "node-b", None]) == (Node("node-a", "Unknown", SINCE, first + 30.0),)
    virtual_clock.advance(30.0)
    assert nodes.of(["node-a"])[0].seen_since == first + 30.0
    nodes.reflector.reason = "nodes in the cluster cannot be watched"
    assert nodes.of(["node-a"]) == ()
    nodes.reflector.reason = ""
    assert nodes.of(["node-a"])[0].seen_since == first + 60.0


def test_nodes_are_listed_in_the_whole_cluster(api: ScriptedApi, nodes: Nodes) -> None:
    api.lists.append(list_of(7, node_object()))
    list(api.client().pages(nodes.reflector.resource, nodes.reflector.namespace))
    assert api.asked()[0].path == "/api/v1/nodes"
    assert str(nodes.reflector) == "nodes in the cluster"


def test_a_node_concerns_the_jobs_that_have_pods_on_it(api: ScriptedApi) -> None:
    world = World(api.client(), SiteBackends(SiteProfile()), ["lab"], lambda _: None, Metrics())
    pods = next(item for item in world.reflectors() if item.resource.kind == "Pod")
    pods.cache.put(pod_object())
    assert (world.jobs_on("node-a"), world.jobs_on("node-b")) == ({("lab", "tiny")}, set())
