"""A decision is carried out in its order, once, and only against the job as it was read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

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
from tests.operator.scripted_api import Answer, ScriptedApi, list_of, scripted_api, status_object
from unimrg_api import cluster
from unimrg_api.status import JobStatus, RestartCounters
from unimrg_operator.app.apply import Applier, Outcome
from unimrg_operator.app.apply import status_object as stored
from unimrg_operator.app.events import Publisher
from unimrg_operator.app.observe import observe_job
from unimrg_operator.backends.base import Attempt
from unimrg_operator.backends.children import spec_digest
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decision import Action, CreateChild, Decision, DeleteChild, DeletePod, Event
from unimrg_operator.core.observation import Observation
from unimrg_operator.kube.errors import Forbidden, TooManyRequests, Unavailable

CREATE = CreateChild("train", 2, 2, RestartCounters(user_restarts=1))
STATUS = JobStatus(phase="Running")


def _pod_of_another_job() -> Raw:
    pod = pod_object(ownerReferences=[owner("PyTorchJob", "tiny-train-1", "9")])
    pod["spec"]["containers"][0]["env"] = [{"name": "UNIMRG_UID", "value": "another"}]
    return pod


class Shell:
    """An applier in front of a scripted API server."""

    def __init__(self, api: ScriptedApi, profile: SiteProfile | None = None) -> None:
        client = api.client()
        self.api = api
        self.backend = SiteBackends(profile or SiteProfile())
        self.written: list[tuple[tuple[str, str], str, Raw]] = []
        publisher = Publisher(client, clock=lambda: 1_795_000_000.5)
        self.created: list[tuple[str, str, Raw]] = []
        self.now = 0.0
        self.applier = Applier(
            client,
            self.backend,
            publisher,
            lambda *told: self.written.append(told),
            lambda kind, *told: self.created.append((kind.plural, *told)),
            clock=lambda: self.now,
        )

    def apply(
        self,
        *actions: Action,
        status: JobStatus = STATUS,
        item: Raw | None = None,
        events: tuple[Event, ...] = (),
    ) -> Outcome:
        """Apply a decision about a job whose stored status is STATUS unless `item` says otherwise."""
        item = item or job_object(status=stored(STATUS))
        observation = Observation(observe_job(item))
        return self.applier.apply(item, observation, Decision(status, actions, events))

    def requests(self) -> list[tuple[str, str]]:
        """What was asked but for the lists of pods."""
        requests = [request for request in self.api.requests if "limit" not in request.query]
        return [(request.method, request.path.rpartition("/namespaces/lab/")[2]) for request in requests]


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    """A server that knows of no pods."""
    with scripted_api() as server:
        server.lists.append(list_of(1))
        yield server


def exists() -> Answer:
    return Answer(409, status_object(409, "AlreadyExists", "already exists", name="tiny-train-2"))


def ok(body: Raw | None = None) -> Answer:
    return Answer(body=body or {})


def child_as_created(shell: Shell, **metadata: Any) -> Raw:
    """The child that CREATE makes, as the API server would return it."""
    job = observe_job(job_object()).job
    assert job is not None
    manifest = shell.backend.render(Attempt(job, "lab", JOB_UID, "train", 2, 2, CREATE.restart_counters))
    manifest["metadata"] = {**manifest["metadata"], "uid": "c", "resourceVersion": "5", **metadata}
    return manifest


def test_the_status_is_written_first_then_the_actions_in_order_then_the_events(api: ScriptedApi) -> None:
    shell = Shell(api)
    written = job_object(status={"phase": "Restarting"})
    api.others += [ok(written), *[ok() for _ in range(4)]]
    outcome = shell.apply(
        DeleteChild("train", "tiny-train-1", "u1"),
        DeletePod("tiny-train-1-worker-0", "u2"),
        CREATE,
        status=JobStatus(phase="Restarting"),
        events=(Event("Warning", "AttemptEnded", "train attempt 1 ended"),),
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
    assert api.requests[0].body == {"metadata": {"resourceVersion": "100"}, "status": {"phase": "Restarting"}}
    assert api.requests[1].body["preconditions"] == {"uid": "u1"}
    assert api.requests[2].body["gracePeriodSeconds"] == 0


def test_a_status_that_is_stored_already_is_not_written(api: ScriptedApi) -> None:
    shell = Shell(api)
    assert shell.apply() == Outcome()
    assert shell.requests() == []


@pytest.mark.parametrize(("code", "reason"), [(409, "Conflict"), (404, "NotFound")])
def test_where_the_job_has_changed_or_gone_nothing_else_is_done(api: ScriptedApi, code: int, reason: str) -> None:
    shell = Shell(api)
    api.others.append(Answer(code, status_object(code, reason, name="tiny")))
    outcome = shell.apply(CREATE, status=JobStatus(phase="Failed"), events=(Event("Normal", "Completed", ""),))
    assert outcome == Outcome(conflict=True)
    assert len(api.requests) == 1
    assert not shell.written


def test_a_status_that_cannot_be_written_stops_everything(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others.append(Answer(500, status_object(500, "InternalError")))
    with pytest.raises(Unavailable):
        shell.apply(CREATE, status=JobStatus(phase="Failed"))
    assert len(api.requests) == 1


def test_what_others_wrote_into_the_status_is_taken_out(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others.append(ok(job_object()))
    shell.apply(item=job_object(status={**stored(STATUS), "surprise": {"a": 1}}))
    assert api.requests[0].body["status"] == {"surprise": None}


def test_a_child_is_created_as_the_backend_renders_it_and_owned_by_the_job(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others.append(ok())
    assert shell.apply(CREATE) == Outcome()
    assert shell.created == [("pytorchjobs", "lab", {})]
    (request,) = api.asked("POST")
    body = request.body
    assert body["metadata"]["name"] == "tiny-train-2"
    assert body["metadata"]["ownerReferences"][0]["uid"] == JOB_UID
    job = observe_job(job_object()).job
    assert job is not None
    assert body["metadata"]["annotations"][cluster.SPEC_DIGEST_ANNOTATION] == spec_digest(job)


def test_a_child_that_exists_and_is_ours_is_as_good_as_created(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [exists(), ok(child_as_created(shell))]
    assert shell.apply(CREATE) == Outcome()
    assert shell.requests() == [("POST", "pytorchjobs"), ("GET", "pytorchjobs/tiny-train-2")]
    assert [told[2]["metadata"]["name"] for told in shell.created] == ["tiny-train-2"]


@pytest.mark.parametrize(
    ("pod", "waits"),
    [
        (pod_object(), True),
        (pod_object(status={**running(), "phase": "Pending"}), True),
        (pod_object(deletionTimestamp="2026-11-24T10:00:00Z"), True),
        (pod_object(status=terminated(1)), False),
        (_pod_of_another_job(), False),
    ],
)
def test_before_another_attempt_the_api_server_itself_is_asked_for_live_pods(
    api: ScriptedApi, pod: Raw, waits: bool
) -> None:
    shell = Shell(api)
    api.lists.clear()
    api.lists += [list_of(1, more="next"), list_of(1, pod)]
    api.others.append(ok(child_object()))
    outcome = shell.apply(CREATE)
    assert (outcome.retry_after, bool(shell.requests())) == ((2.0, False) if waits else (None, True))
    first, _ = api.asked()
    assert first.path.endswith("/pods")
    assert first.query["labelSelector"] == "training.unimrg.dev/job=tiny"


def test_the_very_first_attempt_needs_no_such_look(api: ScriptedApi) -> None:
    api.others.append(ok())
    assert Shell(api).apply(CreateChild("check", 1, 1, RestartCounters())) == Outcome()
    assert api.asked() == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"deletionTimestamp": "2026-11-24T10:00:00Z"},
        {"deletionTimestamp": "2026-11-24T10:00:00Z", "ownerReferences": [owner("Deployment", "web", "9")]},
        {"ownerReferences": [owner("UniMRGJob", "tiny", "an earlier job of this name")]},
    ],
)
def test_a_namesake_that_is_going_is_waited_for(api: ScriptedApi, metadata: Raw) -> None:
    shell = Shell(api)
    api.others += [exists(), ok(child_as_created(shell, **metadata))]
    outcome = shell.apply(CREATE)
    assert outcome.fault is None
    assert outcome.retry_after == 2.0


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"deletionTimestamp": "2026-11-24T10:00:00Z"}, "PyTorchJob tiny-train-2 is still being deleted"),
        ({"ownerReferences": [owner("UniMRGJob", "tiny", "of old")]}, "of an earlier job of this name is still there"),
    ],
)
def test_a_namesake_that_does_not_go_for_a_minute_is_a_fault(api: ScriptedApi, metadata: Raw, words: str) -> None:
    shell = Shell(api)
    api.others += [exists(), ok(child_as_created(shell, **metadata))] * 3
    for moment in (0.0, 60.0):
        shell.now = moment
        assert shell.apply(CREATE) == Outcome(retry_after=2.0)
    shell.now = 61.0
    fault = shell.apply(CREATE).fault
    assert fault is not None
    assert fault[0] == "NameConflict"
    assert words in fault[1]


def test_a_namesake_that_has_just_gone_is_tried_again(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [exists(), Answer(404, status_object(404, "NotFound", name="tiny-train-2"))]
    assert shell.apply(CREATE).retry_after == 2.0


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
def test_a_strangers_object_of_that_name_is_a_conflict_and_is_not_touched(api: ScriptedApi, metadata: Raw) -> None:
    shell = Shell(api)
    api.others += [exists(), ok(child_as_created(shell, **metadata))]
    outcome = shell.apply(CREATE)
    assert outcome.fault is not None
    assert outcome.fault[0] == "NameConflict"
    assert "tiny-train-2" in outcome.fault[1]
    assert [method for method, _ in shell.requests()] == ["POST", "GET"]


def test_a_kind_that_the_cluster_does_not_serve_is_a_fault_that_names_it(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others.append(Answer(404, b"404 page not found\n"))
    fault = shell.apply(CREATE).fault
    assert fault is not None
    assert fault[0] == "BackendMissing"
    assert "PyTorchJob (kubeflow.org/v1)" in fault[1]


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [(403, "Forbidden", "exceeded quota: pods"), (422, "Invalid", "spec.x: Invalid value")],
)
def test_a_refusal_of_the_api_server_is_a_fault_in_its_words(
    api: ScriptedApi, code: int, reason: str, message: str
) -> None:
    shell = Shell(api)
    api.others.append(Answer(code, status_object(code, reason, message)))
    fault = shell.apply(CREATE).fault
    assert fault is not None
    assert fault[0] == "ChildRefused"
    assert message in fault[1]


@pytest.mark.parametrize("code", [500, 503, 504])
def test_a_webhook_that_does_not_answer_is_a_fault_in_the_api_servers_words(api: ScriptedApi, code: int) -> None:
    message = 'failed calling webhook "validator.pytorchjob": connection refused'
    shell = Shell(api)
    api.others.append(Answer(code, status_object(code, "InternalError", message)))
    fault = shell.apply(CREATE).fault
    assert fault is not None
    assert fault[0] == "BackendUnavailable"
    assert message in fault[1]


def test_a_job_that_cannot_be_rendered_here_is_a_fault_and_nothing_is_sent(api: ScriptedApi) -> None:
    shell = Shell(api)
    spec = {key: value for key, value in SPEC.items() if key != "image"}
    fault = shell.apply(CREATE, item=job_object(spec=spec, status=stored(STATUS))).fault
    assert fault is not None
    assert fault[0] == "RenderError"
    assert "image" in fault[1]
    assert shell.requests() == []


def test_after_a_fault_no_further_action_is_taken_but_the_events_go_out(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [Answer(404, b""), ok()]
    shell.apply(CREATE, DeletePod("p", "u"), events=(Event("Normal", "A", "b"),))
    assert shell.requests() == [("POST", "pytorchjobs"), ("POST", "events")]


def test_what_the_status_says_is_told_even_if_an_action_then_fails(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [Answer(429, status_object(429, "TooManyRequests")), ok()]
    with pytest.raises(TooManyRequests):
        shell.apply(CREATE, events=(Event("Normal", "A", "b"),))
    assert shell.requests() == [("POST", "pytorchjobs"), ("POST", "events")]


def test_what_is_gone_or_replaced_needs_no_deletion(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [
        Answer(404, status_object(404, "NotFound", name="a")),
        Answer(409, status_object(409, "Conflict", "the UID in the precondition does not match", name="b")),
    ]
    assert shell.apply(DeleteChild("check", "a", "u1"), DeletePod("b", "u2")) == Outcome()
    assert shell.requests() == [("DELETE", "jobs/a"), ("DELETE", "pods/b")]


def test_a_deletion_that_is_not_allowed_is_an_error(api: ScriptedApi) -> None:
    api.others.append(Answer(403, status_object(403, "Forbidden", name="a")))
    with pytest.raises(Forbidden):
        Shell(api).apply(DeleteChild("check", "a", "u1"))


def test_an_event_is_about_the_job_and_an_event_that_fails_changes_nothing(api: ScriptedApi) -> None:
    shell = Shell(api)
    api.others += [ok(), Answer(403, status_object(403, "Forbidden"))]
    note = "key AKIAABCDEFGHIJKLMNOP " + "x" * 2000
    events = (Event("Warning", "AttemptEnded", note), Event("Normal", "StageStarted", "train attempt 1"))
    assert shell.apply(events=events) == Outcome()
    first, _ = api.asked("POST")
    assert first.path == "/apis/events.k8s.io/v1/namespaces/lab/events"
    assert first.body["regarding"] == {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGJob",
        "namespace": "lab",
        "name": "tiny",
        "uid": JOB_UID,
    }
    assert (first.body["type"], first.body["reason"]) == ("Warning", "AttemptEnded")
    assert len(first.body["note"]) <= 1024
    assert "AKIA" not in first.body["note"]
    assert first.body["eventTime"] == "2026-11-18T11:06:40.500000Z"


def test_the_same_event_goes_out_once_in_five_minutes(api: ScriptedApi) -> None:
    now = [1000.0]
    publisher = Publisher(api.client(), clock=lambda: now[0])
    job = observe_job(job_object())
    notice = Event("Normal", "A", "b")
    for moment in (1000.0, 1299.0, 1301.0):
        now[0] = moment
        publisher.publish(job, notice)
    publisher.publish(job, replace(notice, message="c"))
    publisher.publish(replace(job, uid="another"), notice)
    assert len(api.asked("POST")) == 4
