"""Warnings about an object are read sparingly and shown briefly; events of a job are published once."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from tests.operator.raw_objects import JOB_UID, job_object
from tests.operator.scripted_api import ScriptedApi, list_of
from tests.support.api_stand_in import Answer, refusal
from tests.support.virtual_clock import VirtualClock
from unimrg_operator.app.events import Publisher, Warnings
from unimrg_operator.app.observe import observe_job
from unimrg_operator.app.outbox import Outbox
from unimrg_operator.core.decision import Event
from unimrg_operator.core.observation import ObservedJob


def warning(
    reason: str, message: str, seen: str = "", field: str = "lastTimestamp", *, uid: str = "u"
) -> dict[str, Any]:
    metadata = {"name": reason, "resourceVersion": "1"}
    return {"metadata": metadata, "reason": reason, "message": message, field: seen, "involvedObject": {"uid": uid}}


def test_the_newest_warnings_come_first_each_once_and_only_a_few(api: ScriptedApi) -> None:
    api.lists.append(
        list_of(
            1,
            warning("FailedCreate", "exceeded quota", "2026-11-24T10:00:01Z"),
            warning("FailedCreate", "exceeded quota", "2026-11-24T10:00:05Z"),
            warning("FailedScheduling", "no node", "2026-11-24T10:00:09.123456Z", "eventTime"),
            warning("Old", "password=hunter2222 " + "x" * 900, "2026-11-24T09:00:00Z"),
            warning("Older", "b", "not a time"),
            {},
            {"reason": 7},
        )
    )
    *first, last = Warnings(api.client()).about("lab", "u")
    assert first == ["FailedScheduling: no node", "FailedCreate: exceeded quota"]
    assert last.startswith("Old: ")
    assert "hunter2" not in last
    assert len(last) <= 300
    (request,) = api.asked()
    assert request.path == "/api/v1/namespaces/lab/events"
    assert request.query["fieldSelector"] == "type=Warning"


def test_one_read_of_few_pages_serves_a_namespace_for_a_while(api: ScriptedApi, virtual_clock: VirtualClock) -> None:
    api.lists += [list_of(1, warning("A", "a", uid="first"), more="1"), list_of(1, warning("B", "b"), more="2")]
    warnings = Warnings(api.client(), clock=virtual_clock)
    assert [warnings.about("lab", uid) for uid in ("first", "u", "third")] == [("A: a",), ("B: b",), ()]
    assert len(api.asked()) == 4  # pages, of a list without end
    virtual_clock.advance(29.0)
    warnings.about("lab", "u")
    assert len(api.asked()) == 4
    warnings.about("other", "u")
    virtual_clock.advance(2.0)
    warnings.about("lab", "u")
    assert len(api.asked()) == 12


def test_without_the_right_to_list_events_ten_minutes_pass(api: ScriptedApi, virtual_clock: VirtualClock) -> None:
    api.lists.append(refusal(403, "Forbidden", "no"))
    warnings = Warnings(api.client(), clock=virtual_clock)
    for seconds, expected in ((0.0, 1), (500.0, 1), (101.0, 2)):
        virtual_clock.advance(seconds)
        assert warnings.about("lab", "u") == ()
        assert len(api.asked()) == expected


def test_an_event_is_about_the_job_and_holds_no_secret(api: ScriptedApi) -> None:
    api.others += [Answer(body={}), refusal(403, "Forbidden")]
    publisher = Publisher(api.client(), clock=lambda: 1_795_000_000.5)
    for note in ("key AKIAABCDEFGHIJKLMNOP " + "x" * 2000, "refused"):
        publisher.publish(observe_job(job_object()), Event("Warning", "AttemptFailed", note))
    first, _ = api.asked("POST")
    assert first.path == "/apis/events.k8s.io/v1/namespaces/lab/events"
    assert first.body["regarding"] == {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGJob",
        "namespace": "lab",
        "name": "tiny",
        "uid": JOB_UID,
    }
    assert (first.body["type"], first.body["reason"]) == ("Warning", "AttemptFailed")
    assert len(first.body["note"]) <= 1024
    assert "AKIA" not in first.body["note"]
    assert first.body["eventTime"] == "2026-11-18T11:06:40.500000Z"


def test_the_same_event_is_published_once_in_five_minutes(api: ScriptedApi) -> None:
    now = [1000.0]
    publisher = Publisher(api.client(), clock=lambda: now[0])
    job, event = observe_job(job_object()), Event("Normal", "A", "b")
    for now[0] in (1000.0, 1299.0, 1301.0):
        publisher.publish(job, event)
    publisher.publish(job, replace(event, message="c"))
    publisher.publish(replace(job, uid="another"), event)
    assert len(api.asked("POST")) == 4


def test_events_are_written_in_order_without_anybody_waiting() -> None:
    gate, written = threading.Event(), []

    class Slow:
        def publish(self, _: ObservedJob, event: Event) -> None:
            gate.wait(30.0)
            written.append(event.reason)

    publisher: Any = Slow()
    outbox = Outbox(publisher)
    outbox.start()
    job = observe_job(job_object())
    for reason in ("A", "B", "C"):
        outbox.publish(job, Event("Normal", reason, ""))
    assert written == []
    gate.set()
    outbox.stop(30.0)
    assert written == ["A", "B", "C"]
