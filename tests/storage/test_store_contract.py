"""The promises of `ObjectStore`, kept by every store: one list of tests, one line per store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from tests.support.s3_stores import Place
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.objects import BufferStream
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import AlreadyExists, NotFound, StorageError, put_once

Fixtures = pytest.FixtureRequest


def folder(fixtures: Fixtures) -> ObjectStore:
    path: Path = fixtures.getfixturevalue("tmp_path")
    return LocalStore(path / "run")


def bucket(fixtures: Fixtures) -> ObjectStore:
    place: Place = fixtures.getfixturevalue("s3_place")
    return place.store()


STORES: dict[str, Callable[[Fixtures], ObjectStore]] = {
    "bucket": bucket,
    "dictionary": lambda _: DictionaryStore(),
    "folder": folder,
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return STORES[request.param](request)


def test_what_was_put_is_there_until_it_is_replaced(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    stream = BufferStream([memoryview(b"from "), memoryview(b"a stream")])
    for content in (b"\x00first", b"", b"short"):
        store.put("a/b.bin", content)
        assert (store.get("a/b.bin"), store.size("a/b.bin")) == (content, len(content))
        assert store.list() == [("a/b.bin", len(content))]
    store.put("a/b.bin", source)
    assert store.get("a/b.bin") == b"from a file" and source.exists()
    for _ in range(2):  # a stream is read from its beginning, and stays open
        store.put("a/b.bin", stream)
        assert store.get("a/b.bin") == b"from a stream"


def test_a_conditional_put_never_replaces(store: ObjectStore) -> None:
    store.put("a", b"first", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put("a", b"second", if_absent=True)
    assert store.get("a") == b"first"
    assert store.list() == [("a", 5)]


def test_a_write_whose_reply_was_lost_is_recognised_by_its_content(store: ObjectStore) -> None:
    def lose_reply(action: str, key: str) -> None:
        raise (AlreadyExists if key == "repeated" else StorageError)(key)

    loses = WrappedStore(store, after=lose_reply)
    assert put_once(loses, "repeated", b"mine") and put_once(loses, "lost", b"mine")
    store.put("others", b"another's")
    assert not put_once(store, "others", b"mine")
    assert store.get("others") == b"another's"


def test_a_write_that_failed_without_a_trace_is_a_failure(store: ObjectStore) -> None:
    with pytest.raises(StorageError):
        put_once(WrappedStore(store, before=raising(lambda: StorageError("refused"), "a")), "a", b"mine")
    assert store.list() == []


def test_a_deleted_key_can_be_put_again(store: ObjectStore) -> None:
    store.put("a/b", b"first", if_absent=True)
    store.delete("a/b")
    assert store.size("a/b") is None
    store.put("a/b", b"second", if_absent=True)
    for missing in ("a/c", "nowhere/c", "a"):
        store.delete(missing)
    assert store.get("a/b") == b"second"


@pytest.mark.parametrize("key", ["a", "folder/none", "folder", "folder/object/deeper"])
def test_what_is_not_there_is_not_found(store: ObjectStore, key: str) -> None:
    store.put("folder/object", b"1")
    assert store.size(key) is None
    with pytest.raises(NotFound) as caught:
        store.get(key)
    assert caught.value.exit_code is ExitCode.INPUT_MISSING


def test_a_part_of_an_object_can_be_read(store: ObjectStore) -> None:
    store.put("a", b"0123456789")
    assert store.get("a", 3) == b"3456789"
    assert store.get("a", 3, 4) == b"3456"
    assert store.get("a", 0, 0) == b""
    assert store.get("a", 8, 100) == b"89"
    assert store.get("a", 100, 1) == b""


def test_a_listing_is_sorted_and_compares_prefixes_as_text(store: ObjectStore) -> None:
    for key in ("b", "a/10", "a/9", "a/sub/x", "ab"):
        store.put(key, key.encode())
    assert [key for key, _ in store.list()] == ["a/10", "a/9", "a/sub/x", "ab", "b"]
    assert store.list("a/") == [("a/10", 4), ("a/9", 3), ("a/sub/x", 7)]
    assert store.list("a") == [("a/10", 4), ("a/9", 3), ("a/sub/x", 7), ("ab", 2)]
    assert store.list("a/su") == [("a/sub/x", 7)]
    assert store.list("nothing/here/") == []
    assert store.folders() == ["a"]


def test_keys_may_be_any_text(store: ObjectStore) -> None:
    keys = ["Größe/深度 %20 #?.bin", "spaces in it", ".hidden"]
    for key in keys:
        store.put(key, b"x")
    assert [key for key, _ in store.list()] == sorted(keys)
    assert store.get(keys[0]) == b"x"


@pytest.mark.parametrize(
    "key", ["", "/a", "../a", "a/../../b", "a/..", "./a", "a//b", "a/", "a\\b", "a\nb", "a\x00", "\udc80", "x" * 1025]
)
def test_a_key_that_leaves_the_store_or_is_ambiguous_is_refused(store: ObjectStore, key: str) -> None:
    for call in (store.get, store.size, store.delete, lambda k: store.put(k, b"1")):
        with pytest.raises(StorageError) as caught:
            call(key)
        assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert store.list() == []
    for prefix in ("../", "..", "/", "a/../"):
        with pytest.raises(StorageError):
            store.list(prefix)


def test_of_many_conditional_writers_exactly_one_wins(store: ObjectStore) -> None:
    writers = 8
    start = threading.Barrier(writers)
    won: list[int] = []

    def write(number: int) -> None:
        start.wait()
        try:
            store.put("folder/marker", b"%d" % number * 1000, if_absent=True)
        except AlreadyExists:
            return
        won.append(number)

    for _ in range(3):
        won.clear()
        threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("folder/marker") == b"%d" % won[0] * 1000
        store.delete("folder/marker")


def test_readers_see_the_old_object_or_the_whole_new_one(store: ObjectStore) -> None:
    versions = {b"a" * 300_000, b"b" * 200_000}
    store.put("a", min(versions))
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for version in sorted(versions):
                store.put("a", version)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {store.get("a") for _ in range(100)}
    finally:
        stop.set()
        writer.join()
    assert seen <= versions


def test_the_age_of_an_object_counts_from_its_last_write(store: ObjectStore) -> None:
    assert store.age("a") is None
    for content in (b"1", b"2"):
        store.put("a", content)
        age = store.age("a")
        assert age is not None and -2 <= age < 60, "a bucket's times are of whole seconds"
