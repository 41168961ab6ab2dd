"""Deleting old checkpoints never costs the last ones, whatever happens in between."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import checkpointer, loads, small_state
from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import newest_verified, quarantine
from unimrg_trainer.checkpoint.reader import inspect_commits, list_commits
from unimrg_trainer.checkpoint.retention import Policy, expired, retain
from unimrg_trainer.storage.base import StorageError

DAY = 24 * 3600.0


def steps(commits: Sequence[Commit]) -> list[int]:
    return [commit.step for commit in commits]


def commits_of(numbers: Sequence[int]) -> list[Commit]:
    return [Commit(step, 0, 1, "", "") for step in numbers]


@given(present=st.sets(st.integers(0, 99)), keep_last=st.integers(-1, 10), keep_every=st.none() | st.integers(1, 60))
def test_the_newest_two_are_never_expired(present: set[int], keep_last: int, keep_every: int | None) -> None:
    deleted = set(steps(expired(commits_of(list(present)), Policy(keep_last, keep_every))))
    left = present - deleted
    newest = set(sorted(present)[-max(2, keep_last) :])
    assert left >= newest
    if keep_every is None:
        assert left == newest
    else:
        firsts = {step for step in present if not present & set(range(step // keep_every * keep_every, step))}
        assert left - newest == {step for step in firsts if step >= keep_every} - newest
        assert not expired(commits_of(list(left)), Policy(keep_last, keep_every)), "it is kept for good"


def test_the_commit_with_the_lowest_score_stays_until_there_is_a_better_one(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store, keep_last=2)
    for step, score in ((10, 3.0), (20, 1.5), (30, 2.0), (40, None), (50, 1.5)):
        keeper.save(small_state(step), "periodic", score=score)
    assert steps(list_commits(dictionary_store)) == [50, 40]
    for step in (60, 70):
        keeper.save(small_state(step), "periodic", score=1.75)
    assert steps(list_commits(dictionary_store)) == [70, 60, 50]


def test_of_every_so_many_steps_a_commit_is_kept_for_good(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store, keep_last=2, keep_every=20)
    for step in (8, 16, 24, 32, 40, 48, 56, 64):
        keeper.save(small_state(step), "periodic")
    assert steps(list_commits(dictionary_store)) == [64, 56, 40, 24]


def test_a_quarantined_commit_keeps_no_good_one_out(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store, keep_last=2)
    for step in (10, 20, 30):
        commit = keeper.save(small_state(step), "periodic")
    quarantine(dictionary_store, commit.marker, "for the test")
    keeper.save(small_state(40), "periodic")
    assert steps(list_commits(dictionary_store)) == [40, 20]
    assert dictionary_store.list("ckpt/step-00000030/"), "it is kept for people while it is recent"
    for step in (50, 60):
        keeper.save(small_state(step), "periodic")
    assert {key.split("/")[1] for key, _ in dictionary_store.list("ckpt/")} == {"step-00000050", "step-00000060"}


def test_an_unreadable_marker_counts_for_nothing_and_goes_when_it_is_old(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store, keep_last=2)
    for step in (10, 20, 30):
        commit = keeper.save(small_state(step), "periodic")
    dictionary_store.put(commit.key, b"garbage")
    keeper.save(small_state(40), "periodic")
    assert steps(list_commits(dictionary_store)) == [40, 20]
    for step in (50, 60):
        keeper.save(small_state(step), "periodic")
    assert dictionary_store.size(commit.key) is None
    retain(dictionary_store, Policy(2), attempt=2, now=2e10)
    assert dictionary_store.list(commit.folder) == []


class DeletingStore(WrappedStore):
    """Deletes a commit, marker first, when its objects are looked at."""

    def __init__(self, inner: DictionaryStore, commit: Commit) -> None:
        super().__init__(inner)
        self._commit = commit

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        if prefix == self._commit.folder:
            for key in (self._commit.key, *(key for key, _ in self.inner.list(prefix))):
                self.inner.delete(key)
        return super().list(prefix)


def test_a_commit_that_is_deleted_while_it_is_inspected_is_not_damaged(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store)
    first, _ = (keeper.save(small_state(step), "periodic") for step in (10, 20))
    reports = inspect_commits(DeletingStore(dictionary_store, first))
    assert [(one.step, one.finding) for one in reports] == [(20, None)]


def abandon(store: DictionaryStore, step: int, attempt: int) -> float:
    """Leave a folder as a killed writer does; return when it was reserved."""

    class Killed(BaseException):
        """Ends the writer where it is."""

    writer = checkpointer(WrappedStore(store, before=raising(Killed, "COMMITTED")), attempt=attempt)
    with pytest.raises(Killed):
        writer.save(small_state(step), "periodic")
    key = next(key for key in store.writes if f"attempt-{attempt}-" in key and "reservation" in key)
    return float(json.loads(store.get(key))["created"])


def folders(store: DictionaryStore) -> set[str]:
    return {key.split("/")[2].rpartition("-")[0] for key, _ in store.list("ckpt/") if "attempt" in key}


def test_what_killed_writers_left_is_swept_after_a_day(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store, attempt=1).save(small_state(10), "periodic")
    reserved = abandon(dictionary_store, 20, attempt=2)
    retain(dictionary_store, Policy(3), attempt=3, now=reserved + DAY - 60)
    assert folders(dictionary_store) == {"attempt-1", "attempt-2"}
    retain(dictionary_store, Policy(3), attempt=3, now=reserved + DAY + 60)
    assert folders(dictionary_store) == {"attempt-1"}
    loads(dictionary_store, 10)


def test_folders_of_the_live_attempt_and_of_later_ones_are_never_swept(dictionary_store: DictionaryStore) -> None:
    for attempt in (2, 3, 4):
        reserved = abandon(dictionary_store, 20, attempt)
    retain(dictionary_store, Policy(3), attempt=3, now=reserved + 100 * DAY)
    assert folders(dictionary_store) == {"attempt-3", "attempt-4"}


def test_a_failure_to_delete_costs_space_and_no_training(
    dictionary_store: DictionaryStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = WrappedStore(dictionary_store, before=raising(lambda: StorageError("no"), "", "delete"))
    keeper = checkpointer(store, keep_last=2)
    with caplog.at_level(logging.WARNING):
        for step in (10, 20, 30):
            keeper.save(small_state(step), "periodic")
    assert "could not be deleted" in caplog.text
    assert steps(list_commits(dictionary_store)) == [30, 20, 10]
    checkpointer(dictionary_store, keep_last=2).save(small_state(40), "periodic")
    assert steps(list_commits(dictionary_store)) == [40, 30]


class PowerCut(BaseException):
    """Ends whatever is going on."""


def breaking_at(store: DictionaryStore, write: int) -> WrappedStore:
    """The store of a process that dies before its `write`-th write."""
    left = [write]

    def count(*_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PowerCut

    return WrappedStore(store, before=count)


SAVE = st.tuples(st.just("save"), st.integers(1, 5), st.sampled_from([*range(12), 99, 99, 99, 99]))
RETAIN = st.tuples(st.just("retain"), st.integers(1, 5), st.sampled_from([*range(9), 99]))
SPOIL = st.tuples(st.just("spoil"), st.integers(0, 3), st.sampled_from(["marker", "data", "aside"]))


@settings(max_examples=200)
@given(operations=st.lists(st.one_of(SAVE, RETAIN, SPOIL), min_size=4, max_size=20))
def test_no_sequence_of_saves_crashes_and_damage_loses_the_last_commits(
    operations: list[tuple[str, int, int | str]],
) -> None:
    store = DictionaryStore()
    store.put("spool/attempt-1/segment-1.jsonl", b"points")
    step, spoilt = 0, set()
    now = 1e12  # every folder is old: whatever may be swept is swept
    for attempt, (operation, number, detail) in enumerate(operations, start=1):
        before = list_commits(store)
        if operation == "spoil":
            if number < len(before):
                commit = before[number]
                spoilt.add(commit.key)
                if detail == "marker":
                    store.put(commit.key, b"garbage")
                elif detail == "data":
                    store.delete(commit.folder + "rank-0.safetensors")
                else:
                    quarantine(store, commit.marker, "for the test")
            continue
        assert isinstance(detail, int)
        breaking = breaking_at(store, detail)
        step += 10
        try:
            if operation == "save":
                checkpointer(breaking, attempt=attempt, keep_last=number).save(small_state(step), "periodic")
            else:
                retain(breaking, Policy(number), attempt=attempt, now=now)
        except PowerCut:
            assert detail < 99, "the operation itself does not end so"
        after = list_commits(store)
        newest = sorted({*before, *after}, key=lambda commit: commit.marker, reverse=True)[:2]
        assert after[:2] == newest, "the newest two ever seen are there"
        for commit in newest:
            if commit.key not in spoilt:
                assert store.size(commit.folder + "rank-0.safetensors"), "with their data"
        assert store.get("spool/attempt-1/segment-1.jsonl") == b"points"

    good = [commit for commit in list_commits(store) if commit.key not in spoilt]
    try:
        found = newest_verified(store)
    except UserError:
        assert not good
        return
    assert found == (good[0] if good else None)
