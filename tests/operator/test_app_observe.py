"""What objects of a cluster are taken to mean, also where somebody wrote nonsense into them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.operator.raw_objects import (
    CHILD_UID,
    JOB_UID,
    RANK_LABEL,
    SPEC,
    child_object,
    job_object,
    owner,
    pod_object,
    running,
    terminated,
)
from unimrg_api import cluster
from unimrg_api.cluster import SWEEP_LABEL
from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_api.termination import TerminationRecord
from unimrg_operator.app.observe import is_pod_of, is_pod_of_namesake, observe_child, observe_job, observe_pod
from unimrg_operator.app.world import prune, prune_job
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends

BACKENDS = SiteBackends(SiteProfile())


def at(clock: str) -> float:
    return datetime.fromisoformat(f"2026-11-24T{clock}+00:00").astimezone(UTC).timestamp()


def test_a_job_is_read_with_the_metadata_that_matters() -> None:
    item = job_object(status={"phase": "Checking", "conditions": []})
    item["metadata"] |= {
        "annotations": {"x": "y" * 70_000},
        "labels": {"k": "v", SWEEP_LABEL: "s"},
        "finalizers": ["z"],
    }
    seen = observe_job(prune_job(item))
    assert (seen.name, seen.namespace, seen.uid, seen.generation) == ("tiny", "lab", JOB_UID, 3)
    assert seen.parsed is not None
    assert seen.parsed.metadata.namespace == "lab"
    assert seen.parsed.metadata.labels == {SWEEP_LABEL: "s"}
    assert (seen.status.phase, seen.deleting, seen.parse_error) == ("Checking", False, "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**SPEC, "model": {"harmon": {"variant": "Unknown"}}}, "spec.model.harmon.variant"),
        ({**SPEC, "surprise": 1}, "spec.surprise"),
        ({**SPEC, "checkpoint": {"uri": "file:///tmp/run"}}, "mount a PersistentVolumeClaim"),
        (None, "spec"),
        ([], "spec"),
        ("text", "spec"),
    ],
)
def test_a_job_that_is_not_valid_in_a_cluster_is_a_problem(spec: Any, message: str) -> None:
    seen = observe_job(job_object(spec=spec))
    assert (seen.parsed, seen.uid) == (None, JOB_UID)
    assert message in seen.parse_error


@pytest.mark.parametrize("field", ["conditions", "stages", "checkpoint", "reason", "fieldOfAnotherVersion"])
def test_a_field_of_the_status_that_cannot_be_read_is_all_that_is_lost(field: str) -> None:
    condition = {"type": "Degraded", "status": "True", "reason": "Yes", "lastTransitionTime": "2026-11-24T10:00:00Z"}
    known: dict[str, Any] = {
        "phase": "Failed",
        "reason": "Stalled",
        "conditions": [condition],
        "stages": [{"name": "check", "state": "Succeeded", "attempt": 1}],
        "checkpoint": {"uri": "s3://lab/run", "step": 7},
    }
    damaged = {**known, field: [{"name": "check", "state": "Other"}]}
    before = copy.deepcopy(damaged)
    seen = observe_job(job_object(status=damaged)).status
    assert damaged == before, "the cache is shared"
    assert seen == JobStatus.model_validate({key: value for key, value in known.items() if key != field})


@pytest.mark.parametrize("nothing", [None, {}, {"phase": "Nonsense"}, [], "text"])
def test_a_status_without_anything_readable_is_an_empty_one(nothing: Any) -> None:
    assert observe_job(job_object(status=nothing)).status == JobStatus()


@pytest.mark.parametrize(
    ("stage", "condition", "state"),
    [
        ("train", None, "Active"),
        ("train", {"type": "Running", "status": "True"}, "Active"),
        ("train", {"type": "Succeeded", "status": "True"}, "Succeeded"),
        ("train", {"type": "Succeeded", "status": "False"}, "Active"),
        ("train", {"type": "Failed", "status": "True"}, "Failed"),
        ("train", {"type": "Suspended", "status": "True"}, "Suspended"),
        ("check", {"type": "Suspended", "status": "True"}, "Suspended"),
        ("check", {"type": "Suspended", "status": "False"}, "Active"),
        ("check", {"type": "Complete", "status": "True"}, "Succeeded"),
        ("check", {"type": "SuccessCriteriaMet", "status": "True"}, "Active"),
        ("check", {"type": "FailureTarget", "status": "True"}, "Active"),
        ("check", {"type": "Failed", "status": "True"}, "Failed"),
    ],
)
def test_the_state_of_a_child_is_what_its_conditions_say(stage: StageName, condition: Any, state: str) -> None:
    item = child_object(stage)
    item["status"] = {"conditions": [condition] if condition else None}
    child = observe_child(prune(item), BACKENDS)
    assert child is not None
    assert child.state == state


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        ("Completed", "Succeeded"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("StartupPolicyCompleted", "Active"),
    ],
)
def test_a_jobset_is_read_as_what_it_is(condition: str, state: str) -> None:
    item = child_object() | {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
    item["status"] = {"conditions": [{"type": condition, "status": "True"}]}
    child = observe_child(item, BACKENDS)
    assert child is not None
    assert (child.kind, child.state) == ("jobset.x-k8s.io/v1alpha2/JobSet", state)
    assert observe_child(item | {"kind": "Stranger"}, BACKENDS) is None


COUNTERS = RestartCounters(user_restarts=2, excluded_nodes=["node-b"])


@pytest.mark.parametrize(
    ("text", "counters"),
    [
        (COUNTERS.model_dump_json(by_alias=True), COUNTERS),
        *((text, RestartCounters()) for text in ("", "{", "[]", '{"userRestarts": "many"}', '{"userRestarts": -1}')),
    ],
)
def test_a_child_is_read_with_its_number_and_restart_counters(text: str, counters: RestartCounters) -> None:
    annotations = {cluster.RESTART_COUNTERS_ANNOTATION: text, "other": "x"}
    item = child_object("train", 3, annotations=annotations, deletionTimestamp="2026-11-24T10:09:00Z")
    child = observe_child(prune(item), BACKENDS)
    assert child is not None
    assert (child.name, child.uid, child.stage, child.attempt) == ("tiny-train-3", CHILD_UID, "train", 3)
    assert (child.created, child.restart_counters, child.deleting) == (at("10:01:00"), counters, True)


@pytest.mark.parametrize(
    ("stage", "attempt"), [("train", None), (None, "1"), ("x", "1"), ("train", "0"), ("train", "-1"), ("train", "²")]
)
def test_an_object_without_our_labels_is_no_child(stage: str | None, attempt: str | None) -> None:
    labels = {cluster.STAGE_LABEL: stage, cluster.ATTEMPT_LABEL: attempt}
    known = {key: value for key, value in labels.items() if value is not None}
    assert observe_child(child_object(labels=known), BACKENDS) is None


def test_a_running_pod_is_read_with_its_node_and_rank() -> None:
    pod = observe_pod(prune(pod_object(rank=1)))
    assert (pod.name, pod.child, pod.node_rank, pod.phase) == ("tiny-train-1-worker-1", "tiny-train-1", 1, "Running")
    assert (pod.node, pod.grace_seconds, pod.created) == ("node-a", 60, at("10:01:02"))
    assert (pod.deleting_since, pod.waiting_reason, pod.disruption, pod.terminated) == (None, "", "", None)
    item = pod_object("check")
    del item["metadata"]["labels"][RANK_LABEL]
    assert observe_pod(item).node_rank == 0


@pytest.mark.parametrize(("grace", "since"), [(45, "10:09:15"), (0, "10:10:00")])
def test_a_pod_was_asked_to_end_its_grace_before_its_deletion_time(grace: int, since: str) -> None:
    item = pod_object(deletionTimestamp="2026-11-24T10:10:00Z", deletionGracePeriodSeconds=grace)
    pod = observe_pod(prune(item))
    assert (pod.deleting_since, pod.grace_seconds) == (at(since), grace)


def waiting(reason: str, message: str = "", name: str = "pytorch") -> dict[str, Any]:
    return {"name": name, "state": {"waiting": {"reason": reason, **({"message": message} if message else {})}}}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ({"conditions": [UNSCHEDULABLE]}, "Unschedulable", "0/2 nodes"),
        (
            {"containerStatuses": [waiting("ContainerCreating", name="mesh"), waiting("ImagePullBackOff", "no image")]},
            "ImagePullBackOff",
            "no image",
        ),
        (
            {"containerStatuses": [waiting("CreateContainerConfigError", 'secret "s" not found')]},
            "CreateContainerConfigError",
            'secret "s" not found',
        ),
        (
            {
                "initContainerStatuses": [waiting("ErrImagePull", name="mesh")],
                "containerStatuses": [waiting("PodInitializing")],
            },
            "ErrImagePull",
            "",
        ),
        ({"containerStatuses": [waiting("ContainerCreating")]}, "ContainerCreating", ""),
        ({}, "", ""),
    ],
)
def test_why_a_pod_waits_is_the_most_specific_reason(status: dict[str, Any], reason: str, message: str) -> None:
    pod = observe_pod(prune(pod_object(status={"phase": "Pending", **status})))
    assert (pod.phase, pod.waiting_reason, pod.waiting_message) == ("Pending", reason, message)


def test_the_end_of_the_trainers_container_is_read_with_its_record() -> None:
    record = TerminationRecord(reason="Interrupted", exit_code=85, step=120)
    pod = observe_pod(prune(pod_object(status=terminated(85, record.to_json()))))
    assert pod.phase == "Failed"
    assert pod.terminated is not None
    assert (pod.terminated.exit_code, pod.terminated.reason) == (85, "Error")
    assert pod.terminated.finished == at("10:05:00")
    assert (pod.terminated.record.reason, pod.terminated.record.step) == ("Interrupted", 120)


def test_the_end_of_another_container_is_not_taken_for_the_trainers() -> None:
    status = terminated(1)
    status["containerStatuses"][0]["name"] = "sidecar"
    status["phase"] = "Running"
    assert observe_pod(pod_object(status=status)).terminated is None


def test_a_pod_is_read_with_the_times_of_its_node_and_its_start() -> None:
    status = running()
    assert (observe_pod(pod_object(status=status)).scheduled, observe_pod(pod_object()).started) == (
        None,
        at("10:01:05"),
    )
    status["conditions"][0]["lastTransitionTime"] = "2026-11-24T10:00:30Z"
    assert observe_pod(prune(pod_object(status=status))).scheduled == at("10:00:30")
    status["conditions"][0]["status"] = "False"
    assert observe_pod(pod_object(status=status)).scheduled is None
    ended = observe_pod(pod_object(status=terminated(1, startedAt="2026-11-24T10:01:05Z")))
    assert ended.started == at("10:01:05")


@pytest.mark.parametrize(
    "message", ["Traceback:\x1b[31m boom", '{"scores":{"a":1%s}}' % ("0" * 400), '{"step":1%s}' % ("0" * 400), "a bug"]
)
def test_no_message_makes_observing_fail(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if message == "a bug":
        monkeypatch.setattr(TerminationRecord, "parse", lambda _: 1 // 0)
    pod = observe_pod(pod_object(status=terminated(1, message)))
    assert pod.terminated is not None
    assert pod.terminated.exit_code == 1
    if message.startswith("Traceback"):
        assert pod.terminated.record.reason == "Unreadable"
        assert "boom" in pod.terminated.record.message


def test_an_end_without_a_time_is_dated_by_the_pods_last_change() -> None:
    status = terminated(137, finishedAt=None, reason="ContainerStatusUnknown")
    status["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-24T10:07:00Z"}]
    pod = observe_pod(pod_object(status=status))
    assert pod.terminated is not None
    assert pod.terminated.finished == at("10:07:00")


def target(status: str, reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": status, "reason": reason}]}


@pytest.mark.parametrize(
    ("status", "disruption"),
    [
        ({"phase": "Failed", **target("True", "PreemptionByScheduler")}, "PreemptionByScheduler"),
        ({"phase": "Running", **target("False", "X")}, ""),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted"),
        ({"phase": "Unknown", "reason": "NodeLost"}, "NodeLost"),
        ({"phase": "Failed"}, ""),
    ],
)
def test_a_disruption_is_what_the_cluster_says_it_is(status: dict[str, Any], disruption: str) -> None:
    assert observe_pod(prune(pod_object(status=status))).disruption == disruption


def test_a_pod_belongs_to_the_job_of_its_child_or_environment() -> None:
    pod = prune(pod_object())
    assert is_pod_of(pod, JOB_UID, [CHILD_UID])
    assert is_pod_of(pod, JOB_UID, [])  # the child is gone, or not listed yet
    assert not is_pod_of(pod, "another", ["its child"])
    assert is_pod_of_namesake(pod, "another", ["its child"])
    assert not is_pod_of_namesake(pod, JOB_UID, [])
    assert not is_pod_of_namesake(prune(pod_object(ownerReferences=[])), "another", [])
    unrelated = prune(pod_object(ownerReferences=[owner("ReplicaSet", "web", "9")]))
    unrelated["spec"]["containers"] = []
    assert not is_pod_of(unrelated, JOB_UID, [CHILD_UID])
    assert not is_pod_of_namesake(unrelated, "another", [])


def test_pruning_drops_what_is_large_or_secret_and_nothing_observed() -> None:
    job, child, pod = job_object(status={"phase": "Running"}), child_object(), pod_object(status=terminated(1, "x"))
    originals = copy.deepcopy((job, child, pod))
    kept = repr((prune_job(job), prune(child), prune(pod)))
    assert "managedFields" not in kept
    assert "UNIMRG_SPEC" not in kept
    assert "emptyDir" not in kept
    assert "template" not in kept
    assert observe_job(prune_job(job)) == observe_job(job)
    assert observe_child(prune(child), BACKENDS) == observe_child(child, BACKENDS)
    assert observe_pod(prune(pod)) == observe_pod(pod)
    assert (job, child, pod) == originals


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_keys = ["spec", "status", "conditions", "containerStatuses", "labels", "annotations", "ownerReferences", "containers"]


@given(st.dictionaries(st.sampled_from(_keys), _json, max_size=4), st.dictionaries(st.sampled_from(_keys), _json))
def test_no_object_makes_observing_fail(top: dict[str, Any], inner: dict[str, Any]) -> None:
    metadata = {"name": "x", "namespace": "lab", "uid": "u", "resourceVersion": "1"}
    nested = {key: value for key, value in inner.items() if key not in metadata}
    for key in ("status", "spec"):
        item = {**top, "metadata": {**metadata, **nested}, key: nested}
        observe_job(prune_job(item))
        observe_child(prune(item), BACKENDS)
        observe_pod(prune(item))
        is_pod_of(prune(item), "u", [])
