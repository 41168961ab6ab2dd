"""A reflector's cache follows the API server through everything that lists and watches do in practice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.operator.scripted_api import ScriptedApi, event, list_of, thing
from tests.support.api_stand_in import CUT, HOLD, NOT_FOUND, Answer, refusal, status_object
from unimrg_operator.backends.base import Resource
from unimrg_operator.kube.cache import Change, name_of, version_of
from unimrg_operator.kube.client import Object
from unimrg_operator.kube.reflector import Reflector

THINGS = Resource("lab.example", "v1", "things", "Thing")


class Followed:
    """A reflector in a thread, with the changes, restarts and pauses that it reported."""

    def __init__(
        self, api: ScriptedApi, *, silence_margin: float = 10.0, watch_seconds: float = 290.0, optional: bool = False
    ) -> None:
        self.changes: list[tuple[str | None, str | None]] = []
        self.causes: list[str] = []
        self.waits: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None
        self.on_change: Callable[[], object] = lambda: None
        self.reflector = Reflector(
            api.client(silence_margin=silence_margin),
            THINGS,
            "lab",
            self._changed,
            label_selector="mine",
            prune=_without_ballast,
            index=lambda item: str(item.get("owner", "")),
            optional=optional,
            restarted=self.causes.append,
            watch_seconds=watch_seconds,
            chance=lambda: 0.5,
            sleep=self._sleep,
        )
        self._thread = threading.Thread(target=self.reflector.run, daemon=True)

    def __enter__(self) -> Followed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.reflector.stop()
        self._thread.join(5.0)
        assert not self._thread.is_alive(), "the reflector does not stop"

    def versions(self) -> dict[str, str]:
        return {name_of(item): version_of(item) for item in self.reflector.cache.all()}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < deadline, (self.versions(), self.causes, self.reflector.reason)
            time.sleep(0.005)

    def _changed(self, change: Change) -> None:
        before, after = change
        self.changes.append((before and version_of(before), after and version_of(after)))
        self.on_change()

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_sleep()
        time.sleep(0.002)


def _without_ballast(item: Object) -> Object:
    return {key: value for key, value in item.items() if key != "ballast"}


GONE = refusal(410, "Expired")


def test_the_pages_of_a_list_become_one_cache_and_the_watch_continues(api: ScriptedApi) -> None:
    api.lists += [list_of(9, thing("a", 1), more="next"), list_of(9, thing("b", 2))]
    api.watches.append(Answer(stream=[event("ADDED", thing("c", 10)), HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "1", "b": "2", "c": "10"})
        assert followed.reflector.synced
    first, second = api.asked()
    assert first.query == {"labelSelector": "mine", "limit": "200"}
    assert second.query["continue"] == "next"
    (watch,) = api.asked(watch=True)
    expected = {"resourceVersion": "9", "allowWatchBookmarks": "true", "labelSelector": "mine", "timeoutSeconds": "290"}
    assert watch.query.items() >= expected.items()


def test_events_change_the_cache_and_are_reported_with_before_and_after(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1, owner="x", ballast="heavy"), thing("c", 1, owner="x")))
    one, two, three = (
        event("MODIFIED", thing("a", 2, owner="y", ballast="heavy")),
        event("ADDED", thing("b", 3)),
        event("DELETED", thing("c", 4)),
    )
    # lines in any pieces; what is known already is no change
    api.watches.append(Answer(stream=[one[:20], one[20:] + one + two + three[:-1], b"\n", HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: len(followed.changes) == 5)
        cache = followed.reflector.cache
        assert [[name_of(item) for item in cache.by(owner)] for owner in ("x", "y", "z")] == [[], ["a"], []]
        assert all("ballast" not in item for item in cache.all())
    assert followed.changes == [(None, "1"), (None, "1"), ("1", "2"), (None, "3"), ("1", None)]
    assert (followed.versions(), followed.causes) == ({"a": "2", "b": "3"}, [])


def test_a_bookmark_moves_the_watch_on_and_a_planned_end_needs_no_list(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1)))
    api.watches.append(Answer(stream=[event("BOOKMARK", {"metadata": {"resourceVersion": "77"}})]))
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
        assert followed.changes == [(None, "1")]
    assert [watch.query["resourceVersion"] for watch in api.asked(watch=True)] == ["1", "77"]
    assert len(api.asked()) == 1


@pytest.mark.parametrize(
    ("watch", "cause"),
    [
        (GONE, "Gone"),
        (Answer(stream=[event("ERROR", status_object(410, "Expired"))]), "Gone"),
        (Answer(stream=[event("ERROR", status_object(500, "InternalError"))]), "Unavailable"),
        (Answer(stream=[b'{"type": "ERROR", "object": "nonsense"}\n']), "Unavailable"),
        (Answer(stream=[b'{"type": "ADDED", "obj\n']), "JSONDecodeError"),
        (Answer(stream=[event("ADDED", thing("z", 2))[:-9]]), "JSONDecodeError"),
        (Answer(stream=[b"[]\n"]), "TypeError"),
        (Answer(stream=[b'{"type": "ADDED", "object": {"metadata": {"name": "z"}}}\n']), "KeyError"),
        (Answer(stream=[event("SURPRISE", thing("z", 2))]), "ValueError"),
    ],
)
def test_a_watch_that_may_have_missed_something_is_followed_by_a_list(
    api: ScriptedApi, watch: Answer, cause: str
) -> None:
    api.lists += [list_of(1, thing("a", 1), thing("b", 1)), list_of(5, thing("a", 4), thing("c", 5))]
    api.watches.append(watch)
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "4", "c": "5"})
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert followed.causes == [cause]
    assert followed.waits == [0.75]  # 1 s less a quarter: half of the jitter's half
    assert ("1", None) in followed.changes  # b vanished while nobody watched
    assert api.asked(watch=True)[-1].query["resourceVersion"] == "5"


@pytest.mark.parametrize("end", [[CUT], [event("ADDED", thing("c", 9))[:10], CUT], [HOLD]])
def test_a_stream_that_breaks_or_falls_silent_is_resumed(api: ScriptedApi, end: list[object]) -> None:
    silence = {"silence_margin": -0.7, "watch_seconds": 1.0} if end == [HOLD] else {}
    api.lists.append(list_of(1))
    api.watches.append(Answer(stream=[event("ADDED", thing("b", 7)), *end]))
    with Followed(api, **silence) as followed:
        followed.until(lambda: len(api.asked(watch=True)) >= 2)
    assert followed.causes[0] == "Unavailable"
    assert api.asked(watch=True)[1].query["resourceVersion"] == "7"
    assert len(api.asked()) == 1


def test_a_busy_server_is_left_alone_as_long_as_it_asks_for(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    api.watches.append(Answer(429, status_object(429, "TooManyRequests"), {"Retry-After": "17"}))
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert (followed.causes, followed.waits) == (["TooManyRequests"], [17.0])
    assert len(api.asked()) == 1


def test_the_back_off_doubles_while_lists_fail_and_the_reason_is_visible(api: ScriptedApi) -> None:
    api.lists += [refusal(503, "ServiceUnavailable", "etcd is away")] * 7 + [list_of(1)]
    with Followed(api) as followed:
        followed.until(lambda: len(followed.waits) == 3)
        assert not followed.reflector.usable
        assert "things.lab.example in lab cannot be listed: etcd is away" in followed.reflector.reason
        followed.until(lambda: followed.reflector.synced)
    assert followed.waits == [0.75, 1.5, 3.0, 6.0, 11.25, 11.25, 11.25]
    assert set(followed.causes) == {"Unavailable"}


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(
    ("answer", "cause", "message"),
    [
        (NOT_FOUND, "NotFound", "is their CustomResourceDefinition installed?"),
        (refusal(403, "Forbidden", "you may not"), "Forbidden", "cannot be listed: you may not"),
    ],
)
def test_only_an_optional_kind_is_usable_while_it_is_not_served(
    api: ScriptedApi, optional: bool, answer: Answer, cause: str, message: str
) -> None:
    api.lists += [answer] * 3 + [list_of(1, thing("a", 1))]
    followed, seen = Followed(api, optional=optional), []
    followed.on_sleep = lambda: seen.append((followed.reflector.usable, followed.reflector.reason))
    with followed:
        followed.until(lambda: followed.versions() == {"a": "1"})
    assert [usable for usable, _ in seen] == [optional] * 3
    assert all(message in reason for _, reason in seen)
    assert followed.causes == [cause] * 3
    assert not followed.reflector.absent


def test_a_watch_that_cannot_be_opened_is_visible_until_one_can(
    api: ScriptedApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.lists += [list_of(1), list_of(5, thing("a", 5))]
    api.watches += [refusal(503, "ServiceUnavailable", "etcd is away")] * 3
    reasons: list[str] = []
    followed = Followed(api)
    usable: list[bool] = []
    followed.on_sleep = lambda: (reasons.append(followed.reflector.reason), usable.append(followed.reflector.usable))
    with followed:
        followed.until(lambda: followed.versions() == {"a": "5"} and followed.reflector.synced)
    assert all(reason.startswith("things.lab.example in lab cannot be watched: etcd is away") for reason in reasons)
    assert not any(usable)  # though it was listed: nobody knows what has changed since
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert len(api.asked()) == 2  # after three there is a new list
    assert [watch.query["resourceVersion"] for watch in api.asked(watch=True)] == ["1", "1", "1", "5"]


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_watch_that_is_not_allowed_is_replaced_by_lists(api: ScriptedApi, code: int) -> None:
    api.lists += [list_of(1), list_of(5, thing("a", 5))]
    api.watches += [refusal(code, "No")] * 50
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "5"})
        assert "cannot be watched" in followed.reflector.reason


def test_what_is_created_during_a_list_waits_for_the_watch(api: ScriptedApi) -> None:
    api.lists += [list_of(5), list_of(9)]
    api.watches.append(GONE)
    followed = Followed(api)
    followed.on_sleep = lambda: followed.reflector.admit(thing("new", 7))  # the next list may have begun before
    with followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
        followed.reflector.admit(thing("newer", 10))
        assert followed.versions() == {"newer": "10"}
    assert followed.changes == [(None, "10")]


def test_what_was_just_written_replaces_nothing_newer(api: ScriptedApi) -> None:
    api.lists.append(list_of(5, thing("z", 1)))
    api.watches.append(Answer(stream=[event("ADDED", thing("a", 8)), HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"z": "1", "a": "8"})
        for item in (thing("a", 7), thing("b", 9), thing("b", 10)):
            followed.reflector.admit(item)
        followed.reflector.admit(thing("c", 11) | {"metadata": {"name": "c", "resourceVersion": "opaque"}})
        cache = followed.reflector.cache
        assert cache.exchange("1", thing("z", 2))
        assert not cache.exchange("1", thing("z", 3))
        assert not cache.exchange("1", thing("gone", 3))
        assert followed.versions() == {"z": "2", "a": "8", "b": "9"}


def test_an_error_in_whoever_uses_a_change_does_not_end_the_reflector(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1)))
    api.watches.append(Answer(stream=[event("MODIFIED", thing("a", 2)), HOLD]))
    followed = Followed(api)
    followed.on_change = lambda: len(followed.changes) == 1 and 1 // 0
    with followed:
        followed.until(lambda: len(followed.changes) >= 2)
