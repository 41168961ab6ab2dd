"""A prefix belongs to one training for ever, and no attempt number is given twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.identity import claim_attempt, claim_identity, find_attempt
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.storage.base import StorageError


def test_the_first_claim_gives_the_uid_for_ever(dictionary_store: DictionaryStore) -> None:
    assert claim_identity(dictionary_store, "first", "digest") == "first"
    assert claim_identity(dictionary_store, "second", "digest") == "first"
    assert claim_identity(dictionary_store, None, "digest") == "first"
    assert json.loads(dictionary_store.get("job.json")) == {"uid": "first", "digest": "digest"}


@pytest.mark.parametrize("absent", [None, ""])
def test_without_a_uid_one_is_drawn(absent: str | None) -> None:
    stores = [DictionaryStore(), DictionaryStore()]
    drawn = [claim_identity(store, absent, "digest") for store in stores]
    assert drawn[0] != drawn[1]
    assert [claim_identity(store, absent, "digest") for store in stores] == drawn


def test_another_training_is_refused_with_both_digests_and_a_way_out(
    dictionary_store: DictionaryStore,
) -> None:
    claim_identity(dictionary_store, "uid", "digest-of-the-first")
    with pytest.raises(UserError) as caught:
        claim_identity(dictionary_store, "uid", "digest-of-the-second")
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert "digest-of-the-first" in caught.value.message
    assert "digest-of-the-second" in caught.value.message
    assert "spec.checkpoint.uri" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"uid": 1, "digest": "d"}', b"\xff"])
def test_an_unreadable_identity_is_refused(dictionary_store: DictionaryStore, content: bytes) -> None:
    dictionary_store.put("job.json", content)
    with pytest.raises(UserError, match=r"job\.json") as caught:
        claim_identity(dictionary_store, "uid", "digest")
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert dictionary_store.get("job.json") == content


def test_two_first_starts_agree_on_one_uid(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    start = threading.Barrier(4)
    found: list[str] = []

    def claim() -> None:
        start.wait()
        found.append(claim_identity(store, None, "digest"))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_attempts_are_numbered_from_one(dictionary_store: DictionaryStore) -> None:
    assert [claim_attempt(dictionary_store) for _ in range(11)] == list(range(1, 12))
    dictionary_store.put("attempts/notes.txt", b"not an attempt")
    assert claim_attempt(dictionary_store) == 12


def test_a_start_has_one_number_that_no_other_start_gets(dictionary_store: DictionaryStore) -> None:
    assert claim_attempt(dictionary_store, "a/5", 5) == 5
    assert claim_attempt(dictionary_store, "b/5", 5) == 6
    assert claim_attempt(dictionary_store) == 7
    assert claim_attempt(dictionary_store, "a/5", 5) == find_attempt(dictionary_store, "a/5") == 5
    dictionary_store.put("attempts/8.json", b"damaged")
    assert claim_attempt(dictionary_store, "a/6", 6) == 9
    assert find_attempt(dictionary_store, "a/7") is None


def test_pods_of_one_start_agree_on_its_number(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim_attempt(store)
    together = threading.Barrier(4)
    found: list[int] = []

    def claim() -> None:
        together.wait()
        found.append(claim_attempt(store, "uid/1", 1))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2, 2, 2, 2]


def test_starts_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    start = threading.Barrier(6)
    found: list[int] = []

    def claim() -> None:
        start.wait()
        found.append(claim_attempt(store))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1, 2, 3, 4, 5, 6]


def test_a_claim_whose_reply_was_lost_is_ours(dictionary_store: DictionaryStore) -> None:
    class TryingTwice(WrappedStore):
        def put(self, key: str, data: bytes | Path, *, if_absent: bool = False) -> None:
            self.inner.put(key, data, if_absent=if_absent)
            self.inner.put(key, data, if_absent=if_absent)

    assert claim_attempt(TryingTwice(dictionary_store)) == 1
    assert claim_identity(TryingTwice(dictionary_store), "uid", "digest") == "uid"


def test_an_unreachable_store_is_reported_as_such(dictionary_store: DictionaryStore) -> None:
    def fail(*_: str) -> None:
        raise StorageError("the store is away")

    with pytest.raises(StorageError, match="away"):
        claim_identity(WrappedStore(dictionary_store, before=fail), "uid", "digest")
    assert dictionary_store.objects == {}
