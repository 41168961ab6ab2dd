"""The cached part of a cluster: which object belongs to which job, and which kinds may be missing."""

from __future__ import annotations

import pytest

from tests.operator.raw_objects import CHILD_UID, JOB_UID, SPEC, Raw, child_object, job_object, owner, pod_object
from tests.operator.scripted_api import ScriptedApi
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.kube.reflector import Reflector

TRAIN = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
KEY = ("lab", "tiny")


class Cached:
    """A world whose reflectors do not run: a test fills their caches."""

    def __init__(self, world: World, queued: list[JobKey]) -> None:
        self.world, self.queued = world, queued

    def reflector(self, kind: str) -> Reflector:
        return next(item for item in self.world.reflectors() if item.resource.kind == kind)

    def tell(self, job: Raw) -> None:
        """A job changes."""
        self.reflector("UniMRGJob")._changed((None, job))

    def put(self, kind: str, *items: Raw) -> None:
        for item in items:
            self.reflector(kind).cache.put(item)


@pytest.fixture
def cached(api: ScriptedApi) -> Cached:
    queued: list[JobKey] = []
    return Cached(World(api.client(), SiteBackends(SiteProfile()), ["lab"], queued.append, Metrics()), queued)


def test_only_the_kind_of_a_backend_may_be_missing_and_is_named(cached: Cached) -> None:
    assert cached.world.unserved("lab", "train", None) is None
    for reflector in cached.world.reflectors():
        reflector.missing = True
    assert {item.resource.kind for item in cached.world.reflectors() if item.usable} == {"PyTorchJob"}
    assert not cached.world.usable("lab")
    assert cached.world.unserved("lab", "train", None) == TRAIN
    cached.reflector("Job").missing = False
    assert cached.world.unserved("lab", "check", None) is None


def test_kinds_of_another_backend_are_watched_once_a_job_names_it(cached: Cached) -> None:
    def watched() -> set[str]:
        return {item.resource.kind for item in cached.world.reflectors()}

    cached.tell(job_object())
    assert watched() == {"UniMRGJob", "PyTorchJob", "Job", "Pod"}
    cached.tell(job_object(spec={**SPEC, "backend": "JobSet"}))
    assert watched() == {"UniMRGJob", "PyTorchJob", "JobSet", "Job", "Pod"}
    assert cached.queued == [KEY, KEY]
    cached.world.stop()


def test_a_child_is_cached_as_soon_as_it_was_created(cached: Cached) -> None:
    cached.reflector("PyTorchJob")._version = "150"
    cached.world.created(TRAIN, "lab", child_object())
    (child,) = cached.world.children(KEY, JOB_UID)
    assert child["metadata"]["uid"] == CHILD_UID
    assert "template" not in child["spec"]
    assert cached.queued == [KEY]


def test_a_job_is_looked_at_anew_as_soon_as_its_status_was_written(cached: Cached) -> None:
    before = job_object()
    cached.put("UniMRGJob", before)
    version = before["metadata"]["resourceVersion"]
    cached.world.written(KEY, "another", job_object())
    assert cached.queued == []  # the watch was faster
    cached.world.written(KEY, version, job_object())
    assert cached.queued == [KEY]


def test_pods_belong_to_this_job_or_an_earlier_one_or_to_none(cached: Cached) -> None:
    own, earlier = pod_object(), pod_object(rank=1, ownerReferences=[owner("PyTorchJob", "tiny-train-1", "9")])
    earlier["spec"]["containers"][0]["env"] = [{"name": "UNIMRG_UID", "value": "another"}]
    cached.put("Pod", own, earlier, pod_object(rank=2, ownerReferences=[]) | {"spec": {}})
    cached.put("PyTorchJob", child_object())
    assert cached.world.pods(KEY, JOB_UID, [CHILD_UID]) == [own]
    assert cached.world.namesakes_pods(KEY, JOB_UID, [CHILD_UID]) == [earlier]
    assert list(cached.world.pods_of_children()) == []  # of no job that is known
    cached.put("UniMRGJob", job_object())
    assert list(cached.world.pods_of_children()) == [(KEY, own)]
