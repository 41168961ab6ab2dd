"""Several ranks over real gloo groups: each writes its share, and all of them come to the same end."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import assert_same, checkpointer, loaded_by, loads, small_state, small_whole
from tests.support.faulty_stores import LyingStore, WrappedStore, flip, raising
from tests.support.processes import run_ranks
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.manifest import CheckpointError
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.state import LocalState, StateReader
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import StorageError


def ended(call: Callable[[], Any]) -> Any:
    """What a call returns, or how it failed: (message, exit code)."""
    try:
        return call()
    except CheckpointError as error:
        return error.message, int(error.exit_code)


def own(agreement: Agreement, step: int) -> LocalState:
    return small_state(step, agreement.rank, agreement.world_size)


def save_and_load(agreement: Agreement, root: str) -> Any:
    store = LocalStore(Path(root))
    keeper = checkpointer(store, agreement=agreement, keep_last=2)
    commits = [keeper.save(own(agreement, step), "periodic") for step in (10, 20, 30)]
    loaded = loaded_by(keeper)
    assert loaded is not None
    assert_same(loaded[1], small_whole(30))
    return commits, loaded[0]


def test_two_ranks_save_and_one_or_three_load(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = run_ranks(2, tmp_path / "meeting", save_and_load, str(root))
    assert answers[0] == answers[1]
    store = LocalStore(root)
    assert [commit.step for commit in list_commits(store)] == [30, 20]
    newest = list_commits(store)[0]
    written = {key.removeprefix(newest.folder): size for key, size in store.list(newest.folder)}
    assert {"rank-0.safetensors", "rank-1.safetensors"} <= written.keys()
    loads(store, 30)
    assert run_ranks(3, tmp_path / "another", only_load, str(root)) == [30, 30, 30]


def only_load(agreement: Agreement, root: str) -> Any:
    loaded = loaded_by(checkpointer(LocalStore(Path(root)), agreement=agreement))
    if loaded is None:
        return None
    assert_same(loaded[1], small_whole(loaded[0].step))
    return loaded[0].step


def fail_on(agreement: Agreement, root: str, rank: int, place: str) -> Any:
    """Save step 20; the store of `rank` is full."""
    store: ObjectStore = LocalStore(Path(root))
    if agreement.rank == rank:
        store = WrappedStore(store, before=raising(lambda: StorageError("the disk is full"), place))
    keeper = checkpointer(store, agreement=agreement)
    return ended(lambda: keeper.save(own(agreement, 20), "periodic"))


@pytest.mark.parametrize(("rank", "place"), [(1, "rank-1"), (0, "COMMITTED")])
def test_the_failure_of_one_rank_is_everyones(tmp_path: Path, rank: int, place: str) -> None:
    root = tmp_path / "run"
    checkpointer(LocalStore(root)).save(small_state(10), "periodic")
    first, second = run_ranks(2, tmp_path / "meeting", fail_on, str(root), rank, place)
    assert first == second
    assert f"rank {rank}: the disk is full" in first[0]
    assert first[1] == ExitCode.UNAVAILABLE
    loads(LocalStore(root), 10)


def die_on(agreement: Agreement, root: str, rank: int, place: str) -> Any:
    """Save step 20; `rank` is killed on the way."""

    def die(_: str, key: str) -> None:
        if agreement.rank == rank and re.search(place, key):
            os.kill(os.getpid(), signal.SIGKILL)

    keeper = checkpointer(WrappedStore(LocalStore(Path(root)), before=die), agreement=agreement)
    return ended(lambda: keeper.save(own(agreement, 20), "periodic"))


@pytest.mark.parametrize(("rank", "place"), [(1, "rank-1"), (0, "rank-0"), (0, "COMMITTED")])
def test_the_death_of_one_rank_ends_the_others_and_commits_nothing(tmp_path: Path, rank: int, place: str) -> None:
    root = tmp_path / "run"
    checkpointer(LocalStore(root)).save(small_state(10), "periodic")
    answers = run_ranks(2, tmp_path / "meeting", die_on, str(root), rank, place)
    assert answers[rank] is None
    message, code = answers[1 - rank]
    assert "lost the connection" in message
    assert code == ExitCode.COMMUNICATION
    loads(LocalStore(root), 10)
    checkpointer(LocalStore(root), attempt=2).save(small_state(20), "periodic")
    loads(LocalStore(root), 20)


def read_through_lies(agreement: Agreement, root: str) -> Any:
    store: ObjectStore = LocalStore(Path(root))
    if agreement.rank == 1:
        store = LyingStore(store, r"rank-0\.safetensors")
    return ended(lambda: loaded_by(checkpointer(store, agreement=agreement)))


def test_a_fault_on_the_way_to_one_rank_condemns_no_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "run"
    checkpointer(LocalStore(root)).save(small_state(10), "periodic")
    first, second = run_ranks(2, tmp_path / "meeting", read_through_lies, str(root))
    assert first == second
    assert "rank 1, unlike rank 0, found" in first[0]
    assert first[1] == ExitCode.UNAVAILABLE
    loads(LocalStore(root), 10)


def test_all_ranks_fall_back_to_the_same_older_commit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    for step in (10, 20):
        commit = checkpointer(store).save(small_state(step), "periodic")
    key = commit.folder + "rank-0.safetensors"
    store.put(key, flip(store.get(key)))
    assert run_ranks(2, tmp_path / "meeting", only_load, str(tmp_path / "run")) == [10, 10]


def load_own_part(agreement: Agreement, root: str) -> Any:
    """Rank 0 reads the first half of each tensor and rank 1 the second one, as sharded strategies do."""
    read: list[bool] = []

    def import_state(reader: StateReader) -> None:
        wanted = small_state(reader.step, agreement.rank, 2)
        read.append(all(reader.read(p.name, p.start, p.values.numel()).equal(p.values) for p in wanted.pieces))

    commit = checkpointer(LocalStore(Path(root)), agreement=agreement).load_newest(import_state)
    return commit and commit.step, read


def test_what_only_one_rank_reads_and_finds_damaged_is_quarantined_for_all(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    run_ranks(2, tmp_path / "meeting", save_and_load, str(tmp_path / "run"))
    newest = list_commits(store)[0]
    key = newest.folder + "rank-1.safetensors"
    store.put(key, flip(store.get(key)))
    first, second = run_ranks(2, tmp_path / "another", load_own_part, str(tmp_path / "run"))
    assert (first, second) == ((20, [True, True]), (20, [True])), "rank 0 read twice, and found nothing wrong"
    assert [commit.step for commit in list_commits(store)] == [20]


def break_on_rank_1(agreement: Agreement, root: str) -> Any:
    def import_state(reader: StateReader) -> None:
        if agreement.rank == 1:
            raise RuntimeError("CUDA error: an illegal memory access")

    keeper = checkpointer(LocalStore(Path(root)), agreement=agreement)
    try:
        return ended(lambda: keeper.load_newest(import_state))
    except RuntimeError as error:
        return str(error)


def test_a_rank_that_breaks_while_it_imports_keeps_its_own_error(tmp_path: Path) -> None:
    checkpointer(LocalStore(tmp_path / "run")).save(small_state(10), "periodic")
    first, second = run_ranks(2, tmp_path / "meeting", break_on_rank_1, str(tmp_path / "run"))
    assert second == "CUDA error: an illegal memory access"
    assert "failed on rank 1" in first[0] and first[1] == ExitCode.COMMUNICATION
    loads(LocalStore(tmp_path / "run"), 10)


def save_different_things(agreement: Agreement, root: str, difference: str) -> Any:
    """What rank 1 holds does not go with what rank 0 holds, in one of several ways."""
    state = own(agreement, 20)
    mine = state.pieces[0]
    wrong = {
        "another step": dataclasses.replace(state, step=21),
        "the same piece": LocalState(20, [*state.pieces, *small_state(20, 0, 2).pieces[:1]]),
        "a piece too few": LocalState(20, state.pieces[1:]),
        "another type": LocalState(20, [dataclasses.replace(mine, values=mine.values.double()), *state.pieces[1:]]),
    }[difference]
    chosen = wrong if agreement.rank == 1 else state
    return ended(lambda: checkpointer(LocalStore(Path(root)), agreement=agreement).save(chosen, "periodic"))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ("another step", "hold the steps 20, 21"),
        ("the same piece", "model/head.weight: element 0 is held twice"),
        ("a piece too few", "model/head.weight: 7 of its 15 elements are held"),
        ("another type", "hold different tensors model/head.weight"),
    ],
)
def test_ranks_that_hold_different_things_commit_nothing(tmp_path: Path, difference: str, said: str) -> None:
    first, second = run_ranks(2, tmp_path / "meeting", save_different_things, str(tmp_path / "run"), difference)
    assert said in first[0] and said in second[0]
    assert first[1] == ExitCode.PROGRAM
    assert LocalStore(tmp_path / "run").list() == []
