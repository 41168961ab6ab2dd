"""The cached part of a cluster: whose is what, which kinds may be missing, and whose progress is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.operator.raw_objects import CHILD_UID, JOB_UID, Raw, child_object, job_object, owner, pod_object
from tests.operator.scripted_api import ScriptedApi, scripted_api
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.world import PODS, JobKey, World
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.kube.reflector import Reflector

TRAIN = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
KEY = ("lab", "tiny")


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as server:
        yield server


class Known:
    """A world whose reflectors do not run: a test fills their caches."""

    def __init__(self, api: ScriptedApi) -> None:
        self.published: list[JobKey] = []
        self.world = World(api.client(), SiteBackends(SiteProfile()), ["lab"], self.published.append, Metrics())

    def reflector(self, kind: str) -> Reflector:
        return next(item for item in self.world.reflectors() if item.resource.kind == kind)

    def hold(self, kind: str, *items: Raw) -> None:
        for item in items:
            self.reflector(kind).cache.put(item)


def test_only_the_kind_of_another_operator_may_be_missing(api: ScriptedApi) -> None:
    known = Known(api)
    for reflector in known.world.reflectors():
        reflector.missing = True
    assert {item.resource.kind for item in known.world.reflectors() if item.usable} == {"PyTorchJob"}
    assert not known.world.usable("lab")


def test_a_kind_that_is_not_served_is_named_for_the_stages_that_need_it(api: ScriptedApi) -> None:
    known = Known(api)
    assert known.world.unserved("lab", "train") is None
    known.reflector("PyTorchJob").missing = True
    assert known.world.unserved("lab", "train") == TRAIN
    assert known.world.unserved("lab", "check") is None


def test_a_child_that_was_just_created_is_known_and_told_before_the_watch_brings_it(api: ScriptedApi) -> None:
    known = Known(api)
    known.reflector("PyTorchJob")._version = "150"
    known.world.created(TRAIN, "lab", child_object())
    (child,) = known.world.children(KEY, JOB_UID)
    assert child["metadata"]["uid"] == CHILD_UID
    assert "template" not in child["spec"]
    assert known.published == [KEY]


def test_only_pods_that_a_known_child_of_a_known_job_controls_are_asked_for_progress(api: ScriptedApi) -> None:
    known = Known(api)
    own = pod_object()
    labelled = pod_object(rank=1, ownerReferences=[])
    strange = pod_object(rank=2, ownerReferences=[owner("PyTorchJob", "tiny-train-1", "9")])
    known.hold("Pod", own, labelled, strange)
    known.hold("PyTorchJob", child_object())
    assert list(known.world.pods_of_children()) == []
    known.hold("UniMRGJob", job_object())
    assert list(known.world.pods_of_children()) == [(KEY, own)]


def test_pods_are_our_own_or_an_earlier_jobs_or_nobodys(api: ScriptedApi) -> None:
    known = Known(api)
    own, earlier = pod_object(), pod_object(rank=1, ownerReferences=[owner("PyTorchJob", "tiny-train-1", "9")])
    earlier["spec"]["containers"][0]["env"] = [{"name": "UNIMRG_UID", "value": "another"}]
    known.hold(PODS.kind, own, earlier, pod_object(rank=2, ownerReferences=[]) | {"spec": {}})
    assert known.world.pods(KEY, JOB_UID, [CHILD_UID]) == [own]
    assert known.world.namesakes_pods(KEY, JOB_UID, [CHILD_UID]) == [earlier]
