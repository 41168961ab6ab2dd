"""Warnings of others about an object: asked for sparingly, shown briefly, and never a reason to fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.operator.scripted_api import Answer, ScriptedApi, list_of, scripted_api, status_object
from tests.support.virtual_clock import VirtualClock
from unimrg_operator.app.events import Warnings


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as server:
        yield server


def warning(reason: str, message: str, seen: str, field: str = "lastTimestamp", *, about: str = "u") -> dict[str, Any]:
    metadata = {"name": reason, "resourceVersion": "1"}
    return {
        "metadata": metadata, "reason": reason, "message": message, field: seen, "involvedObject": {"uid": about}
    }  # fmt: skip


def test_the_newest_warnings_come_first_each_once_and_only_a_few(api: ScriptedApi) -> None:
    api.lists.append(
        list_of(
            1,
            warning("FailedCreate", "exceeded quota", "2026-11-24T10:00:01Z"),
            warning("FailedCreate", "exceeded quota", "2026-11-24T10:00:05Z"),
            warning("FailedScheduling", "no node", "2026-11-24T10:00:09.123456Z", "eventTime"),
            warning("Old", "a", "2026-11-24T09:00:00Z"),
            warning("Older", "b", "2026-11-24T08:00:00Z"),
        )
    )
    assert Warnings(api.client()).about("lab", "u") == (
        "FailedScheduling: no node",
        "FailedCreate: exceeded quota",
        "Old: a",
    )
    (request,) = api.asked()
    assert request.path == "/api/v1/namespaces/lab/events"
    assert request.query["fieldSelector"] == "type=Warning"


def test_one_look_serves_all_objects_of_a_namespace_and_no_other(api: ScriptedApi) -> None:
    api.lists += [
        list_of(1, warning("A", "a", "", about="first"), more="next"),
        list_of(1, warning("B", "b", "", about="second")),
    ]
    warnings = Warnings(api.client())
    assert [warnings.about("lab", uid) for uid in ("first", "second", "third")] == [("A: a",), ("B: b",), ()]
    assert [request.query.get("continue") for request in api.asked()] == [None, "next"]
    warnings.about("other", "first")
    assert len(api.asked()) == 3


def test_a_namespace_that_warns_without_end_is_read_only_so_far(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, warning("A", "a", ""), more="more"))
    assert Warnings(api.client()).about("lab", "u") == ("A: a",)
    assert len(api.asked()) == 4


def test_a_look_is_good_for_a_while(api: ScriptedApi, virtual_clock: VirtualClock) -> None:
    api.lists.append(list_of(1))
    warnings = Warnings(api.client(), clock=virtual_clock)
    for seconds in (0.0, 29.0, 2.0):
        virtual_clock.advance(seconds)
        warnings.about("lab", "u")
    assert len(api.asked()) == 2


def test_without_the_right_it_is_quiet_and_does_not_ask_again_soon(
    api: ScriptedApi, virtual_clock: VirtualClock
) -> None:
    api.lists.append(Answer(403, status_object(403, "Forbidden", "no")))
    warnings = Warnings(api.client(), clock=virtual_clock)
    assert warnings.about("lab", "u") == ()
    virtual_clock.advance(500.0)
    assert warnings.about("lab", "another") == ()
    assert len(api.asked()) == 1
    virtual_clock.advance(101.0)
    warnings.about("lab", "u")
    assert len(api.asked()) == 2


def test_messages_are_cleaned_and_nonsense_is_survived(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, warning("A", "password=hunter2222 " + "x" * 900, "not a time"), {}, {"reason": 7}))
    found = Warnings(api.client()).about("lab", "u")
    assert found
    assert all("hunter2" not in text and len(text) <= 300 for text in found)
