"""The transport: what is sent to the API server, and the class of each answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from kubernetes.client import Configuration

from tests.operator.scripted_api import ScriptedApi, thing
from tests.support.api_stand_in import CUT, NOT_FOUND, Answer, refusal, status_object
from unimrg_operator.backends.base import Resource
from unimrg_operator.kube.client import Client
from unimrg_operator.kube.errors import (
    AlreadyExists,
    ApiError,
    ConfigurationError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    NotLeading,
    Refused,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from unimrg_operator.kube.throttle import Priority

PODS = Resource("", "v1", "pods", "Pod")
JOBS = Resource("batch", "v1", "jobs", "Job")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", Refused),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (422, "Invalid", Refused),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (302, "", ApiError),
    ],
)
def test_each_answer_has_its_class_and_keeps_the_servers_message(
    api: ScriptedApi, status: int, reason: str, expected: type[ApiError]
) -> None:
    api.others.append(refusal(status, reason, "because", name="a"))
    with pytest.raises(ApiError) as caught:
        api.client().get(JOBS, "lab", "a")
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.message) == (status, "because")


@pytest.mark.parametrize(
    ("answer", "kind_missing"),
    [
        (refusal(404, "NotFound", 'jobs "a" not found', name="a"), False),
        (refusal(404, "NotFound", "the server could not find the requested resource"), True),
        (NOT_FOUND, True),
    ],
)
def test_a_missing_kind_is_not_a_missing_object(api: ScriptedApi, answer: Answer, kind_missing: bool) -> None:
    api.others.append(answer)
    with pytest.raises(NotFound) as caught:
        api.client().get(JOBS, "lab", "a")
    assert caught.value.kind_missing is kind_missing


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0), ("99999", 300.0)]
)
def test_a_busy_server_says_when_to_try_again(api: ScriptedApi, header: str, seconds: float) -> None:
    api.others.append(Answer(429, status_object(429, "TooManyRequests"), {"Retry-After": header}))
    with pytest.raises(TooManyRequests) as caught:
        api.client().get(JOBS, "lab", "a")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("answer", [Answer(stream=[b"{", CUT]), Answer(body=b"<html>"), Answer(body=[1])])
def test_a_request_without_a_whole_answer_is_not_repeated(api: ScriptedApi, answer: Answer) -> None:
    api.others.append(answer)
    with pytest.raises(Unavailable):
        api.client().create(JOBS, "lab", thing("a", 0))
    assert len(api.asked("POST")) == 1


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(Unavailable, match="no answer from the API server"):
            Client(configuration).get(JOBS, "lab", "a")


def test_an_unusable_configuration_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="service account of this pod cannot be used"):
        Client.from_environment()
    with pytest.raises(ConfigurationError, match=r"a context .* needs a kubeconfig"):
        Client.from_environment(context="x")
    with pytest.raises(ConfigurationError, match="missing cannot be used"):
        Client.from_environment(tmp_path / "missing")
    broken = tmp_path / "broken"
    for text in ("", "]", "[]", "kind: Config", "current-context: x\ncontexts: []\nclusters: []\nusers: []"):
        broken.write_text(text)
        with pytest.raises(ConfigurationError, match="broken cannot be used"):
            Client.from_environment(broken)


def test_writes_wait_by_their_urgency_and_are_not_sent_once_they_may_not_be(api: ScriptedApi) -> None:
    waited: list[Priority] = []
    leading = [True, True, True, True, False]
    client = api.client()
    client.guard_writes(waited.append, lambda: leading.pop(0))
    api.others.extend([Answer(body=thing("a", 1))] * 4)
    client.create(JOBS, "lab", thing("a", 1))
    client.patch_status(JOBS, "lab", "a", {}, resource_version="1")
    client.create(EVENTS, "lab", thing("a", 1))
    client.delete(PODS, "lab", "a", uid="1")
    with pytest.raises(NotLeading):
        client.delete(PODS, "lab", "b", uid="1")
    assert waited == [Priority.ACTION, Priority.STATUS, Priority.EVENT, Priority.ACTION, Priority.ACTION]
    assert len(api.requests) == 4


def test_an_update_replaces_the_object_at_its_version(api: ScriptedApi) -> None:
    api.others.append(Answer(body=thing("a", 2)))
    assert api.client().update(JOBS, "lab", "a", thing("a", 1)) == thing("a", 2)
    (request,) = api.requests
    assert (request.method, request.path) == ("PUT", "/apis/batch/v1/namespaces/lab/jobs/a")
    assert request.body["metadata"]["resourceVersion"] == "1"
