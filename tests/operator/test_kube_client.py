"""The transport: what is sent to the API server, and the class of each answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from kubernetes.client import Configuration

from tests.operator.scripted_api import (
    CUT,
    Answer,
    ScriptedApi,
    kubeconfig,
    list_of,
    status_object,
    thing,
)
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
    Refused,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

PODS = Resource("", "v1", "pods", "Pod")
JOBS = Resource("batch", "v1", "jobs", "Job")


def test_each_group_has_its_path_and_empty_selectors_are_left_out(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    client = api.client()
    client.list_page(PODS, "lab")
    client.list_page(JOBS, "lab", label_selector="a=b", continue_token="x/y=")
    first, second = api.asked()
    assert (first.path, first.query) == ("/api/v1/namespaces/lab/pods", {"limit": "500"})
    assert second.path == "/apis/batch/v1/namespaces/lab/jobs"
    assert second.query == {"labelSelector": "a=b", "limit": "500", "continue": "x/y="}


def test_a_status_is_merged_against_the_version_that_was_read(api: ScriptedApi) -> None:
    api.others.append(Answer(body=thing("a", 8)))
    written = api.client().patch_status(JOBS, "lab", "a", {"phase": "Running"}, resource_version="7")
    (request,) = api.asked("PATCH")
    assert request.path == "/apis/batch/v1/namespaces/lab/jobs/a/status"
    assert request.headers["content-type"] == "application/merge-patch+json"
    assert request.body == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Running"}}
    assert written["metadata"]["resourceVersion"] == "8"


def test_a_deletion_names_the_uid_and_only_a_forced_one_has_no_grace(api: ScriptedApi) -> None:
    api.others += [Answer(body={}), Answer(body={})]
    client = api.client()
    client.delete(JOBS, "lab", "a", uid="u1")
    client.delete(PODS, "lab", "a", uid="u2", grace_seconds=0)
    gentle, forced = (request.body for request in api.asked("DELETE"))
    assert (gentle["preconditions"], gentle["propagationPolicy"]) == ({"uid": "u1"}, "Background")
    assert "gracePeriodSeconds" not in gentle
    assert forced["gracePeriodSeconds"] == 0


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
    api.others.append(Answer(status, status_object(status, reason, "because", name="a")))
    with pytest.raises(ApiError) as caught:
        api.client().get(JOBS, "lab", "a")
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.message) == (status, "because")


@pytest.mark.parametrize(
    ("body", "kind_missing"),
    [
        (status_object(404, "NotFound", 'jobs "a" not found', name="a"), False),
        (status_object(404, "NotFound", "the server could not find the requested resource"), True),
        (b"404 page not found\n", True),
    ],
)
def test_a_missing_kind_is_not_a_missing_object(api: ScriptedApi, body: object, kind_missing: bool) -> None:
    api.others.append(Answer(404, body))
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


def test_the_token_of_a_kubeconfig_goes_with_every_request(api: ScriptedApi, tmp_path: Path) -> None:
    api.lists.append(list_of(1))
    path = kubeconfig(tmp_path, api.host)
    Client.from_environment(path).list_page(PODS, "lab")
    Client.from_environment(path, "two").list_page(PODS, "lab")
    assert [request.headers["authorization"] for request in api.asked()] == ["Bearer token one", "Bearer token two"]


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
