"""A decision is carried out in its order, once, and only against the job as it was read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.operator.raw_objects import (
    JOB_UID,
    SPEC,
    Raw,
    child_object,
    job_object,
    owner,
    pod_object,
    running,
    terminated,
)
from tests.operator.scripted_api import ScriptedApi, list_of
from tests.support.api_stand_in import NOT_FOUND, Answer, refusal
from unimrg_api import cluster
from unimrg_api.status import JobStatus, RestartCounters, StageStatus
from unimrg_operator.app.apply import Applier, Outcome, difference
from unimrg_operator.app.apply import status_object as stored
from unimrg_operator.app.events import Publisher
from unimrg_operator.app.observe import observe_job
from unimrg_operator.backends.base import Attempt
from unimrg_operator.backends.children import spec_digest
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decision import Action, CreateChild, Decision, DeleteChild, DeletePod, Event
from unimrg_operator.core.observation import Child, Observation
from unimrg_operator.kube.errors import Forbidden, TooManyRequests, Unavailable

CREATE = CreateChild("train", 2, 2, RestartCounters(user_restarts=1))
STATUS = JobStatus(phase="Running")
DELETED = "2026-11-24T10:00:00Z"


class Shell:
    """An applier in front of a scripted API server."""

    def __init__(self, api: ScriptedApi) -> None:
        client = api.client()
        self.api = api
        self.backend = SiteBackends(SiteProfile())
        self.written: list[tuple[tuple[str, str], str, Raw]] = []
        self.created: list[tuple[str, str, Raw]] = []
        self.now = 0.0
        self.applier = Applier(
            client,
            self.backend,
            Publisher(client).publish,
            lambda *written: self.written.append(written),
            lambda kind, *created: self.created.append((kind.plural, *created)),
            clock=lambda: self.now,
        )

    def apply(
        self, *actions: Action, status: JobStatus = STATUS, item: Raw | None = None, events: tuple[Event, ...] = ()
    ) -> Outcome:
        """Apply a decision about a job whose stored status is STATUS unless `item` says otherwise."""
        item = item or job_object(status=stored(STATUS))
        return self.applier.apply(item, Observation(observe_job(item)), Decision(status, actions, events))

    def creation_error(self, **arguments: Any) -> tuple[str, str]:
        """Return why CREATE did not succeed."""
        found = self.apply(CREATE, **arguments).creation_error
        assert found is not None
        return found

    def requests(self) -> list[tuple[str, str]]:
        """Every request but the lists of pods."""
        requests = [request for request in self.api.requests if "limit" not in request.query]
        return [(request.method, request.path.rpartition("/namespaces/lab/")[2]) for request in requests]


@pytest.fixture
def shell(api: ScriptedApi) -> Shell:
    """An applier, where there are no pods."""
    api.lists.append(list_of(1))
    return Shell(api)


def ok(body: Raw | None = None) -> Answer:
    return Answer(body=body or {})


def namesake(shell: Shell, **metadata: Any) -> list[Answer]:
    """The answers if the child that CREATE makes exists already; `metadata` changes it."""
    job = observe_job(job_object()).parsed
    assert job is not None
    manifest = shell.backend.render(Attempt(job, "lab", JOB_UID, "train", 2, 2, CREATE.restart_counters))
    manifest["metadata"] = {**manifest["metadata"], "uid": "c", "resourceVersion": "5", **metadata}
    return [refusal(409, "AlreadyExists", name="tiny-train-2"), ok(manifest)]


def test_the_status_is_written_before_the_actions_and_the_events(shell: Shell) -> None:
    written = job_object(status={"phase": "Restarting"})
    shell.api.others += [ok(written), *[ok() for _ in range(4)]]
    outcome = shell.apply(
        DeleteChild("train", "tiny-train-1", "u1"),
        DeletePod("tiny-train-1-worker-0", "u2"),
        CREATE,
        status=JobStatus(phase="Restarting"),
        events=(Event("Warning", "AttemptFailed", "train attempt 1 ended"),),
    )
    assert shell.requests() == [
        ("PATCH", "unimrgjobs/tiny/status"),
        ("DELETE", "pytorchjobs/tiny-train-1"),
        ("DELETE", "pods/tiny-train-1-worker-0"),
        ("POST", "pytorchjobs"),
        ("POST", "events"),
    ]
    assert outcome == Outcome(wrote_status=True)
    assert shell.written == [(("lab", "tiny"), "100", written)]
    assert shell.created == [("pytorchjobs", "lab", {})]
    status, child, pod, *_ = [request.body for request in shell.api.requests if "limit" not in request.query]
    assert status == {"metadata": {"resourceVersion": "100"}, "status": {"phase": "Restarting"}}
    assert (child["preconditions"], child["propagationPolicy"]) == ({"uid": "u1"}, "Background")
    assert "gracePeriodSeconds" not in child
    assert pod["gracePeriodSeconds"] == 0
    assert shell.apply() == Outcome()  # nothing is written twice


def test_a_child_is_deleted_as_what_it_is_whatever_the_spec_says(shell: Shell) -> None:
    shell.api.others.append(ok())
    child = Child("tiny-train-1", "u1", "train", 1, 0.0, "Active", kind="jobset.x-k8s.io/v1alpha2/JobSet")
    item = job_object(status=stored(STATUS), spec={"nothing": "readable"})
    observation = Observation(observe_job(item), (child,))
    shell.applier.apply(item, observation, Decision(STATUS, (DeleteChild("train", "tiny-train-1", "u1"),)))
    assert shell.requests() == [("DELETE", "jobsets/tiny-train-1")]


@pytest.mark.parametrize(("code", "reason"), [(409, "Conflict"), (404, "NotFound")])
def test_a_job_that_changed_or_is_gone_is_not_acted_on(shell: Shell, code: int, reason: str) -> None:
    shell.api.others.append(refusal(code, reason, name="tiny"))
    outcome = shell.apply(CREATE, status=JobStatus(phase="Failed"), events=(Event("Normal", "Completed", ""),))
    assert outcome == Outcome(conflict=True)
    assert (len(shell.api.requests), shell.written) == (1, [])


def test_a_status_that_cannot_be_written_stops_everything(shell: Shell) -> None:
    shell.api.others.append(refusal(500, "InternalError"))
    with pytest.raises(Unavailable):
        shell.apply(CREATE, status=JobStatus(phase="Failed"))
    assert len(shell.api.requests) == 1


_values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.sampled_from("abc"), _values, max_size=3)


@given(_objects, _objects)
def test_the_difference_merged_into_the_old_status_gives_the_new_one(before: Raw, after: Raw) -> None:
    patch = difference(copy.deepcopy(before), after)
    assert _merged(before, patch) == after
    assert bool(patch) == (before != after)


def _merged(target: Any, patch: Any) -> Any:
    """JSON merge patch, as RFC 7396 defines it."""
    if not isinstance(patch, dict):
        return patch
    known = target if isinstance(target, dict) else {}
    merged = {key: _merged(known.get(key), value) for key, value in patch.items() if value is not None}
    return {key: value for key, value in {**known, **merged}.items() if key in merged or key not in patch}


def test_a_child_that_is_there_already_is_as_good_as_created(shell: Shell) -> None:
    shell.api.others += namesake(shell)
    assert shell.apply(CREATE) == Outcome()
    assert shell.requests() == [("POST", "pytorchjobs"), ("GET", "pytorchjobs/tiny-train-2")]
    assert [created[2]["metadata"]["name"] for created in shell.created] == ["tiny-train-2"]
    (request,) = shell.api.asked("POST")
    job = observe_job(job_object()).parsed
    assert job is not None
    assert request.body["metadata"]["annotations"][cluster.SPEC_DIGEST_ANNOTATION] == spec_digest(job)


def _pod_of_another_job() -> Raw:
    pod = pod_object(ownerReferences=[owner("PyTorchJob", "tiny-train-1", "9")])
    pod["spec"]["containers"][0]["env"] = [{"name": "UNIMRG_UID", "value": "another"}]
    return pod


@pytest.mark.parametrize(
    ("pod", "waits"),
    [
        (pod_object(), True),
        (pod_object(status={**running(), "phase": "Pending"}), True),
        (pod_object(deletionTimestamp=DELETED), True),
        (pod_object(status=terminated(1)), False),
        (_pod_of_another_job(), False),
    ],
)
def test_the_server_is_asked_for_live_pods_before_another_attempt(shell: Shell, pod: Raw, waits: bool) -> None:
    shell.api.lists.clear()
    shell.api.lists += [list_of(1, more="next"), list_of(1, pod)]
    shell.api.others.append(ok(child_object()))
    outcome = shell.apply(CREATE)
    assert (outcome.retry_after, bool(shell.requests())) == ((2.0, False) if waits else (None, True))
    first, _ = shell.api.asked()
    assert first.query["labelSelector"] == "training.unimrg.dev/job=tiny"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"deletionTimestamp": DELETED}, "PyTorchJob tiny-train-2 is still being deleted"),
        ({"deletionTimestamp": DELETED, "ownerReferences": [owner("Deployment", "web", "9")]}, "still being deleted"),
        ({"ownerReferences": [owner("UniMRGJob", "tiny", "of old")]}, "of an earlier job of this name is still there"),
    ],
)
def test_a_namesake_has_a_minute_to_go(shell: Shell, metadata: Raw, message: str) -> None:
    shell.api.others += namesake(shell, **metadata) * 3
    for shell.now in (0.0, 60.0):
        assert shell.apply(CREATE) == Outcome(retry_after=2.0)
    shell.now = 61.0
    reason, text = shell.creation_error()
    assert reason == "NameConflict"
    assert message in text
    shell.api.others += [namesake(shell)[0], refusal(404, "NotFound", name="tiny-train-2")]
    assert shell.apply(CREATE).retry_after == 2.0  # it has just gone


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": [owner("Deployment", "web", "9")]},
        {"ownerReferences": []},
        {"ownerReferences": [owner("UniMRGJob", "another", "9")]},
        {"ownerReferences": [{**owner("UniMRGJob", "tiny", JOB_UID), "controller": False}]},
        {"annotations": {cluster.SPEC_DIGEST_ANNOTATION: "of another spec"}},
        {"annotations": None},
    ],
)
def test_an_object_of_another_owner_is_a_conflict_and_not_touched(shell: Shell, metadata: Raw) -> None:
    shell.api.others += namesake(shell, **metadata)
    reason, text = shell.creation_error()
    assert reason == "NameConflict"
    assert "tiny-train-2" in text
    assert [method for method, _ in shell.requests()] == ["POST", "GET"]


def test_only_a_status_from_which_nothing_follows_is_held(shell: Shell) -> None:
    item, status = job_object(status=stored(STATUS)), JobStatus(phase="Starting")
    seen = Observation(observe_job(item))
    assert shell.applier.apply(item, seen, Decision(status), hold=True) == Outcome(held=True)
    assert shell.applier.apply(item, seen, Decision(STATUS), hold=True) == Outcome()
    assert shell.requests() == []
    shell.api.others += [ok(job_object()), ok()]
    decided = Decision(status, events=(Event("Normal", "A", "b"),))
    assert shell.applier.apply(item, seen, decided, hold=True) == Outcome(wrote_status=True)


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (NOT_FOUND, "BackendMissing", "PyTorchJob (kubeflow.org/v1)"),
        (refusal(403, "Forbidden", "exceeded quota: pods"), "ChildRefused", "exceeded quota: pods"),
        (refusal(422, "Invalid", "spec.x: Invalid value"), "ChildRefused", "spec.x: Invalid value"),
        (refusal(403, "Forbidden", "exceeded quota: q, requested: a, used: b, limited: c"), "QuotaExceeded", "quota"),
        (refusal(500, "InternalError", 'failed calling webhook "v": no route'), "BackendUnavailable", "webhook v does"),
        (refusal(503, "InternalError", "failed calling webhook"), "BackendUnavailable", "failed calling webhook"),
    ],
)
def test_a_refused_child_is_a_fault_that_ends_the_actions(
    shell: Shell, answer: Answer, reason: str, message: str
) -> None:
    shell.api.others += [answer, ok()]
    outcome = shell.apply(CREATE, DeletePod("p", "u"), events=(Event("Normal", "A", "b"),))
    assert outcome.creation_error is not None
    assert outcome.creation_error[0] == reason
    assert message in outcome.creation_error[1]
    assert shell.requests() == [("POST", "pytorchjobs"), ("POST", "events")]


def test_of_a_stage_no_zeros_are_stored_and_what_is_read_back_is_the_same() -> None:
    counters = RestartCounters(free_restarts=1, free_checkpoint_step=0)
    train = StageStatus(name="train", state="Running", attempt=1, restart_counters=counters)
    status = JobStatus(stages=[train, StageStatus(name="evaluate")])
    shown = stored(status)
    assert shown["stages"] == [
        {"name": "train", "state": "Running", "attempt": 1,
         "restartCounters": {"freeRestarts": 1, "freeCheckpointStep": 0}},
        {"name": "evaluate", "state": "Pending"},
    ]  # fmt: skip
    assert (shown["phase"], shown["attempt"], JobStatus.model_validate(shown)) == ("Pending", 0, status)


def test_a_job_that_cannot_be_rendered_is_a_fault(shell: Shell) -> None:
    spec = {key: value for key, value in SPEC.items() if key != "image"}
    reason, message = shell.creation_error(item=job_object(spec=spec, status=stored(STATUS)))
    assert reason == "RenderError"
    assert "image" in message
    assert shell.requests() == []


@pytest.mark.parametrize(
    ("action", "answer", "expected"),
    [
        (CREATE, refusal(429, "TooManyRequests"), TooManyRequests),
        (DeleteChild("check", "a", "u1"), refusal(403, "Forbidden", name="a"), Forbidden),
    ],
)
def test_events_are_published_even_if_an_action_then_fails(
    shell: Shell, action: Action, answer: Answer, expected: type[Exception]
) -> None:
    shell.api.others += [answer, ok()]
    with pytest.raises(expected):
        shell.apply(action, events=(Event("Normal", "A", "b"),))
    assert shell.requests()[-1] == ("POST", "events")


def test_what_is_gone_or_replaced_needs_no_deletion(shell: Shell) -> None:
    shell.api.others += [
        refusal(404, "NotFound", name="a"),
        refusal(409, "Conflict", "the UID does not match", name="b"),
    ]
    assert shell.apply(DeleteChild("check", "a", "u1"), DeletePod("b", "u2")) == Outcome()
    assert shell.requests() == [("DELETE", "jobs/a"), ("DELETE", "pods/b")]
