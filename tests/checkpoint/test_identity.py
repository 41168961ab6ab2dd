"""A prefix belongs to one training for ever, and no attempt number is given twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore
from unimrg_api.digests import sha256_of
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.identity import claim_attempt, claim_identity, find_attempt
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.storage.base import StorageError

T = TypeVar("T")
MODEL = {"family": "harmon", "settings": {"dropout": 0.1}, "init": None}
TRAINING = {"model": MODEL, "data": "d" * 64, "precision": "FP32", "seed": 42, "guard": []}


def test_the_first_claim_gives_the_uid_for_ever(dictionary_store: DictionaryStore) -> None:
    assert claim_identity(dictionary_store, "first", TRAINING) == "first"
    assert claim_identity(dictionary_store, "second", TRAINING) == "first"
    assert claim_identity(dictionary_store, None, TRAINING) == "first"
    expected = {"uid": "first", "digest": sha256_of(TRAINING), "training": TRAINING}
    assert json.loads(dictionary_store.get("job.json")) == expected


@pytest.mark.parametrize("absent", [None, ""])
def test_without_a_uid_one_is_drawn(absent: str | None) -> None:
    stores = [DictionaryStore(), DictionaryStore()]
    drawn = [claim_identity(store, absent, TRAINING) for store in stores]
    assert drawn[0] != drawn[1]
    assert [claim_identity(store, absent, TRAINING) for store in stores] == drawn


def test_another_training_is_refused_with_the_fields_that_differ(dictionary_store: DictionaryStore) -> None:
    claim_identity(dictionary_store, "uid", TRAINING)
    model = {"family": "harmon", "settings": {"password": "hunter22", "dropout": 0.2}}
    other = {**TRAINING, "seed": 43, "data": "e" * 64, "model": model, "optimizer": {"beta1": 0.9}, "guard": [6.0, 8]}
    other |= {"earlyStop": {"benchmark": {"name": "vsr"}}, "stages": {"train": {"mode": "Never"}}}
    with pytest.raises(UserError) as caught:
        claim_identity(dictionary_store, "uid", other)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    for said in (
        "spec.training.seed is 42 there and 43 here",
        f'the digest of the data is "{"d" * 64}" there and "{"e" * 64}" here',
        "spec.model.harmon.dropout is 0.1 there and 0.2 here",
        "spec.training.guard.spikeThreshold is absent there and 6.0 here",
        "spec.training.guard.spikeWindow is absent there and 8 here",
        "spec.training.optimizer.beta1 is absent there and 0.9 here",
        'spec.training.earlyStop.benchmark.name is absent there and "vsr" here',
        'spec.stages.train.mode is absent there and "Never" here',
    ):
        assert said in caught.value.message
    assert "init" not in caught.value.message, "absent and null are the same"
    assert "precision" not in caught.value.message and "hunter" not in caught.value.message
    assert "spec.checkpoint.uri" in caught.value.remedy


def test_what_looks_like_a_secret_counts_and_is_not_stored(dictionary_store: DictionaryStore) -> None:
    secret = "ghp_" + "a1" * 12
    claim_identity(dictionary_store, "uid", {"model": {"toy": {"note": f"with {secret}"}}})
    assert secret.encode() not in dictionary_store.get("job.json")
    with pytest.raises(UserError, match="another training: its job has digest"):
        claim_identity(dictionary_store, "uid", {"model": {"toy": {"note": f"with {secret}b"}}})


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"uid": 1, "digest": "d"}', b"\xff"])
def test_an_unreadable_identity_is_refused(dictionary_store: DictionaryStore, content: bytes) -> None:
    dictionary_store.put("job.json", content)
    with pytest.raises(UserError, match=r"job\.json") as caught:
        claim_identity(dictionary_store, "uid", TRAINING)
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert dictionary_store.get("job.json") == content


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


def test_an_unreachable_store_is_reported_as_such(dictionary_store: DictionaryStore) -> None:
    def fail(*_: str) -> None:
        raise StorageError("the store is away")

    with pytest.raises(StorageError, match="away"):
        claim_identity(WrappedStore(dictionary_store, before=fail), "uid", TRAINING)
    assert dictionary_store.objects == {}


def at_once(count: int, claim: Callable[[], T]) -> list[T]:
    """Make the same claim in threads that start together."""
    start = threading.Barrier(count)

    def wait_and_claim(_: int) -> T:
        start.wait()
        return claim()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_claim, range(count)))


def test_claims_at_the_same_time_agree_on_the_uid_and_on_numbers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert len(set(at_once(4, lambda: claim_identity(store, None, TRAINING)))) == 1
    assert sorted(at_once(6, lambda: claim_attempt(store))) == [1, 2, 3, 4, 5, 6]
    for number in range(7, 57):
        start = f"uid/{number}"
        assert set(at_once(4, lambda start=start: claim_attempt(store, start))) == {number}, "the pods of one start"
