"""A reflector's cache follows the API server through everything that lists and watches do in practice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.operator.scripted_api import (
    CUT,
    HOLD,
    Answer,
    ScriptedApi,
    event,
    list_of,
    scripted_api,
    status_object,
    thing,
)
from unimrg_operator.backends.base import Resource
from unimrg_operator.kube.cache import Change, name_of, version_of
from unimrg_operator.kube.client import Object
from unimrg_operator.kube.reflector import Reflector

THINGS = Resource("lab.example", "v1", "things", "Thing")


class Followed:
    """A reflector in a thread, and what it told."""

    def __init__(
        self, api: ScriptedApi, *, silence_margin: float = 10.0, watch_seconds: float = 290.0, optional: bool = False
    ) -> None:
        self.changes: list[tuple[str | None, str | None]] = []
        self.causes: list[str] = []
        self.waits: list[float] = []
        self.asleep: Callable[[], None] = lambda: None
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

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.asleep()
        time.sleep(0.002)


def _without_ballast(item: Object) -> Object:
    return {key: value for key, value in item.items() if key != "ballast"}


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as server:
        yield server


def test_a_list_of_several_pages_becomes_one_cache_and_the_watch_starts_where_it_ends(api: ScriptedApi) -> None:
    api.lists += [list_of(9, thing("a", 1), more="next"), list_of(9, thing("b", 2))]
    api.watches.append(Answer(stream=[event("ADDED", thing("c", 10)), HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: "c" in followed.versions())
        assert followed.versions() == {"a": "1", "b": "2", "c": "10"}
        assert followed.reflector.synced
    first, second = api.asked()
    assert first.query == {"labelSelector": "mine", "limit": "500"}
    assert second.query["continue"] == "next"
    (watch,) = api.asked(watch=True)
    assert watch.query["resourceVersion"] == "9"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert watch.query["labelSelector"] == "mine"
    assert watch.query["timeoutSeconds"] == "290"


def test_events_change_the_cache_and_are_told_with_before_and_after(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1, owner="x", ballast="heavy")))
    lines = [
        event("MODIFIED", thing("a", 2, owner="y", ballast="heavy")),
        event("ADDED", thing("b", 3)),
        event("DELETED", thing("a", 4)),
    ]
    api.watches.append(Answer(stream=[*lines, HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: len(followed.changes) == 4)
    assert followed.changes == [(None, "1"), ("1", "2"), (None, "3"), ("2", None)]
    assert followed.versions() == {"b": "3"}


def test_the_cache_keeps_what_prune_leaves_and_finds_it_by_index(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1, owner="x", ballast="heavy"), thing("b", 1, owner="x")))
    api.watches.append(Answer(stream=[event("MODIFIED", thing("b", 2, owner="y", ballast="heavy")), HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: followed.versions().get("b") == "2")
        cache = followed.reflector.cache
        assert [name_of(item) for item in cache.by("x")] == ["a"]
        assert [name_of(item) for item in cache.by("y")] == ["b"]
        assert cache.by("nobody") == []
        assert all("ballast" not in item for item in cache.all())


def test_a_line_that_comes_in_pieces_is_one_event_and_two_in_one_piece_are_two(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    one, two, three = (event("ADDED", thing(name, 2)) for name in "abc")
    api.watches.append(Answer(stream=[one[:20], one[20:] + two + three[:-1], b"\n", HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: len(followed.versions()) == 3)
    assert followed.causes == []


def test_a_bookmark_moves_on_where_the_next_watch_starts_and_a_planned_end_needs_no_list(api: ScriptedApi) -> None:
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
        (Answer(410, status_object(410, "Expired", "too old")), "gone"),
        (Answer(stream=[event("ERROR", status_object(410, "Expired"))]), "gone"),
        (Answer(stream=[event("ERROR", status_object(500, "InternalError"))]), "error"),
        (Answer(stream=[b'{"type": "ERROR", "object": "nonsense"}\n']), "error"),
        (Answer(stream=[b'{"type": "ADDED", "obj\n']), "unparsable"),
        (Answer(stream=[event("ADDED", thing("z", 2))[:-9]]), "unparsable"),
        (Answer(stream=[b"[]\n"]), "unparsable"),
        (Answer(stream=[b'{"type": "ADDED", "object": {"metadata": {"name": "z"}}}\n']), "unparsable"),
        (Answer(stream=[event("SURPRISE", thing("z", 2))]), "unparsable"),
    ],
)
def test_whatever_casts_doubt_on_the_cache_leads_to_a_new_list(api: ScriptedApi, watch: Answer, cause: str) -> None:
    api.lists += [list_of(1, thing("a", 1), thing("b", 1)), list_of(5, thing("a", 4), thing("c", 5))]
    api.watches.append(watch)
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "4", "c": "5"})
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert followed.causes == [cause]
    assert followed.waits == [0.75]  # 1 s less a quarter: half of the jitter's half
    assert ("1", None) in followed.changes  # b vanished while nobody watched
    assert api.asked(watch=True)[-1].query["resourceVersion"] == "5"


@pytest.mark.parametrize("end", [[CUT], [event("ADDED", thing("c", 9))[:10], CUT]])
def test_a_stream_that_breaks_is_taken_up_where_it_broke(api: ScriptedApi, end: list[object]) -> None:
    api.lists.append(list_of(1))
    api.watches.append(Answer(stream=[event("ADDED", thing("b", 7)), *end]))
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert followed.causes == ["cut"]
    assert api.asked(watch=True)[-1].query["resourceVersion"] == "7"
    assert len(api.asked()) == 1


def test_a_stream_that_falls_silent_is_given_up(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    api.watches.append(Answer(stream=[event("ADDED", thing("a", 3)), HOLD]))
    with Followed(api, silence_margin=-0.7, watch_seconds=1.0) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert followed.causes[0] == "cut"
    assert api.asked(watch=True)[1].query["resourceVersion"] == "3"


def test_a_watch_that_is_turned_away_waits_as_long_as_it_is_told(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    api.watches.append(Answer(429, status_object(429, "TooManyRequests"), {"Retry-After": "17"}))
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 2)
    assert followed.causes == ["unavailable"]
    assert followed.waits == [17.0]
    assert len(api.asked()) == 1


def test_the_back_off_doubles_while_lists_fail_and_the_reason_is_visible(api: ScriptedApi) -> None:
    api.lists += [Answer(503, status_object(503, "ServiceUnavailable", "etcd is away"))] * 7
    api.lists.append(list_of(1))
    with Followed(api) as followed:
        followed.until(lambda: len(followed.waits) == 3)
        assert not followed.reflector.usable
        assert "things.lab.example in lab cannot be listed: etcd is away" in followed.reflector.reason
        followed.until(lambda: followed.reflector.synced)
    assert followed.waits == [0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5]
    assert set(followed.causes) == {"unavailable"}


def test_a_kind_that_is_not_served_is_visible_and_found_once_it_is(api: ScriptedApi) -> None:
    api.lists += [Answer(404, b"404 page not found\n")] * 3 + [list_of(1, thing("a", 1))]
    with Followed(api) as followed:
        followed.until(lambda: bool(followed.waits))
        assert "is their CustomResourceDefinition installed?" in followed.reflector.reason
        assert not followed.reflector.usable
        followed.until(lambda: followed.reflector.synced)
    assert followed.causes == ["missing"] * 3
    assert followed.versions() == {"a": "1"}


def test_only_an_optional_kind_that_is_not_served_may_be_taken_for_one_without_objects(api: ScriptedApi) -> None:
    api.lists.append(Answer(404, b"404 page not found\n"))
    with Followed(api, optional=True) as followed:
        followed.until(lambda: bool(followed.waits))
        assert followed.reflector.usable
        assert not followed.reflector.synced


def test_a_watch_that_cannot_be_opened_is_visible_until_one_can(
    api: ScriptedApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.lists.append(list_of(1))
    api.watches += [Answer(503, status_object(503, "ServiceUnavailable", "etcd is away"))] * 2
    reasons: list[str] = []
    followed = Followed(api)
    followed.asleep = lambda: reasons.append(followed.reflector.reason)
    with followed:
        followed.until(lambda: len(reasons) == 2 and followed.reflector.synced)
    assert all(reason.startswith("things.lab.example in lab cannot be watched: etcd is away") for reason in reasons)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert len(api.asked()) == 1


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_watch_that_is_not_allowed_is_made_up_for_by_lists_and_stays_visible(api: ScriptedApi, code: int) -> None:
    api.lists += [list_of(1), list_of(5, thing("a", 5))]
    api.watches += [Answer(code, status_object(code, "No"))] * 50
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "5"})
        assert "cannot be watched" in followed.reflector.reason


def test_after_three_watches_that_cannot_be_opened_there_is_a_new_list(api: ScriptedApi) -> None:
    api.lists += [list_of(1), list_of(5, thing("a", 5))]
    api.watches += [Answer(500, status_object(500, "InternalError"))] * 3
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "5"} and followed.reflector.synced)
    assert len(api.asked()) == 2
    assert [watch.query["resourceVersion"] for watch in api.asked(watch=True)] == ["1", "1", "1", "5"]


def test_what_was_just_created_is_known_at_once_and_survives_a_list_that_was_begun_before(api: ScriptedApi) -> None:
    api.lists += [list_of(5), list_of(6), list_of(9)]
    api.watches += [Answer(410, status_object(410, "Expired"))] * 2
    held = threading.Event()
    followed = Followed(api)
    followed.asleep = lambda: held.wait(5.0) and None
    with followed:
        followed.until(lambda: bool(followed.waits))
        followed.reflector._version = "5"  # as it is while a watch is open
        followed.reflector.admit(thing("new", 7, ballast="x"))
        followed.reflector.admit(thing("deleted", 4))
        followed.reflector._version = ""
        assert followed.versions() == {"new": "7"}
        assert followed.changes == [(None, "7")]
        held.set()
        followed.until(lambda: len(api.asked()) == 3 and followed.versions() == {})
    assert followed.changes == [(None, "7"), ("7", None)]  # the list at 9 is sure, the one at 6 was not


def test_what_was_just_created_does_not_replace_what_the_watch_has_brought(api: ScriptedApi) -> None:
    api.lists.append(list_of(5))
    api.watches.append(Answer(stream=[event("ADDED", thing("a", 8)), HOLD]))
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"a": "8"})
        followed.reflector.admit(thing("a", 7))
        followed.reflector.admit(thing("b", 9))
        followed.reflector.admit(thing("b", 10))
        followed.reflector.admit(thing("c", 11) | {"metadata": {"name": "c", "resourceVersion": "opaque"}})
        assert followed.versions() == {"a": "8", "b": "9"}


def test_a_kind_that_is_gone_for_a_moment_does_not_empty_the_cache(api: ScriptedApi) -> None:
    api.lists += [list_of(1, thing("a", 1)), Answer(404, b"404 page not found\n"), list_of(2, thing("a", 1))]
    api.watches.append(Answer(410, status_object(410, "Expired")))
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked()) == 3 and followed.reflector.synced)
    assert followed.changes == [(None, "1")]


def test_a_page_token_that_expires_starts_the_list_anew(api: ScriptedApi) -> None:
    api.lists += [
        list_of(3, thing("a", 1), more="old"),
        Answer(410, status_object(410, "Expired")),
        list_of(4, thing("b", 4)),
    ]
    with Followed(api) as followed:
        followed.until(lambda: followed.versions() == {"b": "4"})
    assert followed.causes == ["gone"]
    assert "continue" not in api.asked()[2].query


def test_watches_that_end_at_once_are_not_reopened_without_a_pause(api: ScriptedApi) -> None:
    api.lists.append(list_of(1))
    api.watches += [Answer(stream=[])] * 4
    with Followed(api) as followed:
        followed.until(lambda: len(api.asked(watch=True)) == 5)
    assert followed.waits == [0.75, 1.5, 3.0, 6.0]
    assert set(followed.causes) == {"ended"}


def test_an_error_in_whoever_listens_does_not_end_the_reflector(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1)))
    api.watches += [Answer(stream=[event("MODIFIED", thing("a", 2)), HOLD])]
    calls: list[Change] = []

    def fails_once(change: Change) -> None:
        calls.append(change)
        if len(calls) == 1:
            raise RuntimeError("a bug")

    reflector = Reflector(api.client(), THINGS, "lab", fails_once, sleep=lambda _: None)
    thread = threading.Thread(target=reflector.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10.0
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    reflector.stop()
    thread.join(5.0)
    assert not thread.is_alive()
    assert len(calls) == 2


def test_what_was_just_written_is_taken_in_only_where_nothing_newer_came(api: ScriptedApi) -> None:
    api.lists.append(list_of(1, thing("a", 1)))
    with Followed(api) as followed:
        followed.until(lambda: followed.reflector.synced)
        cache = followed.reflector.cache
        assert cache.exchange("1", thing("a", 2))
        assert not cache.exchange("1", thing("a", 3))
        assert not cache.exchange("1", thing("gone", 3))
        assert followed.versions() == {"a": "2"}
