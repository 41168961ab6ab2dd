"""The transport: what goes over the wire, and what each answer is called."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import Configuration

from tests.operator.scripted_api import CUT, Answer, ScriptedApi, list_of, scripted_api, status_object, thing
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


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as server:
        yield server


def test_core_and_other_groups_have_their_paths_and_empty_selectors_are_left_out(api: ScriptedApi) -> None:
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


def test_a_deletion_names_the_uid_and_at_once_means_no_grace(api: ScriptedApi) -> None:
    api.others += [Answer(body={}), Answer(body={})]
    client = api.client()
    client.delete(JOBS, "lab", "a", uid="u1")
    client.delete(PODS, "lab", "a", uid="u2", grace_seconds=0)
    gentle, forced = (request.body for request in api.asked("DELETE"))
    assert gentle["preconditions"] == {"uid": "u1"}
    assert gentle["propagationPolicy"] == "Background"
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
def test_each_answer_has_its_class_and_keeps_the_servers_words(
    api: ScriptedApi, status: int, reason: str, expected: type[ApiError]
) -> None:
    api.others.append(Answer(status, status_object(status, reason, "because", name="a")))
    with pytest.raises(ApiError) as caught:
        api.client().get(JOBS, "lab", "a")
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.message) == (status, "because")


def test_a_kind_that_is_not_served_is_told_from_an_object_that_is_missing(api: ScriptedApi) -> None:
    api.others += [
        Answer(404, status_object(404, "NotFound", 'jobs "a" not found', name="a")),
        Answer(404, status_object(404, "NotFound", "the server could not find the requested resource")),
        Answer(404, b"404 page not found\n"),
    ]
    client = api.client()
    missing = []
    for _ in range(3):
        with pytest.raises(NotFound) as caught:
            client.get(JOBS, "lab", "a")
        missing.append(caught.value.kind_missing)
    assert missing == [False, True, True]


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0), ("99999", 300.0)]
)
def test_a_server_that_asks_to_be_left_alone_says_for_how_long(api: ScriptedApi, header: str, seconds: float) -> None:
    api.others.append(Answer(429, status_object(429, "TooManyRequests"), {"Retry-After": header}))
    with pytest.raises(TooManyRequests) as caught:
        api.client().get(JOBS, "lab", "a")
    assert caught.value.retry_after == seconds


def test_a_request_is_sent_once_even_if_the_connection_breaks(api: ScriptedApi) -> None:
    api.others.append(Answer(stream=[b"{", CUT]))
    with pytest.raises(Unavailable):
        api.client().create(JOBS, "lab", thing("a", 0))
    assert len(api.asked("POST")) == 1


def test_an_answer_that_is_no_object_counts_as_no_answer(api: ScriptedApi) -> None:
    api.others += [Answer(body=b"<html>"), Answer(body=[1])]
    client = api.client()
    for _ in range(2):
        with pytest.raises(Unavailable):
            client.get(JOBS, "lab", "a")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(Unavailable, match="no answer from the API server"):
            Client(configuration).get(JOBS, "lab", "a")


def test_the_token_of_a_kubeconfig_goes_with_every_request(api: ScriptedApi, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "one",
                "clusters": [{"name": "c", "cluster": {"server": api.host}}],
                "users": [{"name": "u", "user": {"token": "t1"}}, {"name": "v", "user": {"token": "t2"}}],
                "contexts": [
                    {"name": "one", "context": {"cluster": "c", "user": "u"}},
                    {"name": "two", "context": {"cluster": "c", "user": "v"}},
                ],
            }
        )
    )
    api.lists.append(list_of(1))
    Client.from_environment(kubeconfig).list_page(PODS, "lab")
    Client.from_environment(kubeconfig, "two").list_page(PODS, "lab")
    assert [request.headers["authorization"] for request in api.asked()] == ["Bearer t1", "Bearer t2"]


def test_without_a_usable_configuration_one_sentence_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
