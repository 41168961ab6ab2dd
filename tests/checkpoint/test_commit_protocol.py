"""One conditional write decides: races, lost replies, stores that fail or forget, on the way to a commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import CONFIG_DIGEST, checkpointer, loaded_by, loads, small_state, small_whole
from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import newest_verified, quarantine, read_weights
from unimrg_trainer.checkpoint.manifest import CheckpointError
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.state import LocalState, Piece
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.storage.base import StorageError


def test_the_weights_that_are_read_are_the_newest_commits(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store)
    for step in (10, 20):
        keeper.save(small_state(step), "periodic")
    commit, weights = read_weights(dictionary_store)
    assert commit.step == 20
    assert weights.keys() == {"head.weight", "head.bias", "scale"}
    assert all(tensor.equal(small_whole(20).tensors[f"model/{name}"]) for name, tensor in weights.items())


def test_a_run_that_never_committed_has_nothing_to_load(dictionary_store: DictionaryStore) -> None:
    assert loaded_by(checkpointer(dictionary_store)) is None
    assert newest_verified(dictionary_store) is None
    assert list_commits(dictionary_store) == []


def test_the_newest_of_several_commits_is_loaded(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store)
    for step in (10, 9, 100_000_000):
        assert keeper.save(small_state(step), "periodic").step == step
    assert [commit.step for commit in list_commits(dictionary_store)] == [100_000_000, 10, 9]
    loads(dictionary_store, 100_000_000)


def test_everything_is_written_in_the_order_of_the_protocol(dictionary_store: DictionaryStore) -> None:
    commit = checkpointer(dictionary_store, attempt=7).save(small_state(10), "periodic")
    names = [key.rpartition("/")[2] for key in dictionary_store.writes]
    assert names == ["reservation.json", "rank-0.safetensors", "manifest.json", "COMMITTED-0"]
    assert commit.key == "ckpt/step-00000010/COMMITTED-0"
    assert commit.attempt == 7
    assert commit.folder.startswith("ckpt/step-00000010/attempt-7-")


def test_the_manifest_says_where_the_checkpoint_comes_from(dictionary_store: DictionaryStore) -> None:
    commit = checkpointer(dictionary_store, attempt=2).save(
        small_state(10), "final", mlflow_run_id="run", spool_segments=["attempt-2/segment-1.jsonl"]
    )
    manifest = json.loads(dictionary_store.get(commit.manifest_key))
    assert {key: manifest[key] for key in ("schema_version", "step", "attempt", "uid", "world_size")} == {
        "schema_version": 2,
        "step": 10,
        "attempt": 2,
        "uid": "job-uid",
        "world_size": 1,
    }
    assert (manifest["reason"], manifest["strategy"]) == ("final", "ddp")
    assert (manifest["training_digest"], manifest["data_digest"]) == (CONFIG_DIGEST, "d" * 64)
    assert (manifest["mlflow_run_id"], manifest["spool_segments"]) == ("run", ["attempt-2/segment-1.jsonl"])
    tensor = manifest["tensors"]["model/head.weight"]
    (piece,) = tensor.pop("pieces")
    assert tensor == {"dtype": "float32", "shape": [5, 3]}
    stored = dictionary_store.get(commit.folder + piece["object"], piece["offset"], 60)
    assert (piece["start"], piece["count"]) == (0, 15)
    assert stored == small_whole(10).tensors["model/head.weight"].numpy().tobytes()


def test_of_two_writers_of_one_step_exactly_one_commits(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    both_are_there = threading.Barrier(2)

    def meet(action: str, key: str) -> None:
        if action == "put" and "COMMITTED" in key:
            both_are_there.wait(30)

    results: dict[int, Commit | CheckpointError] = {}

    def write(attempt: int) -> None:
        writer = checkpointer(WrappedStore(store, before=meet), attempt=attempt)
        try:
            results[attempt] = writer.save(small_state(10), "periodic")
        except CheckpointError as error:
            results[attempt] = error

    threads = [threading.Thread(target=write, args=(attempt,)) for attempt in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [one for one in results.values() if isinstance(one, Commit)]
    lost = [one for one in results.values() if isinstance(one, CheckpointError)]
    assert (len(won), len(lost)) == (1, 1)
    assert f"committed already, by attempt {won[0].attempt}" in lost[0].message
    assert lost[0].exit_code is ExitCode.UNAVAILABLE
    assert list_commits(store) == won
    loads(store, 10)


def test_a_committed_step_is_refused_before_anything_is_written(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store, attempt=1).save(small_state(10), "periodic")
    before = dict(dictionary_store.objects)
    with pytest.raises(CheckpointError, match="committed already, by attempt 1"):
        checkpointer(dictionary_store, attempt=2).save(small_state(10), "periodic")
    assert dictionary_store.objects == before


@pytest.mark.parametrize("place", ["reservation", "rank-0", "manifest", "COMMITTED"])
def test_a_store_that_fails_leaves_the_previous_commit_and_its_exit_code(
    dictionary_store: DictionaryStore, place: str
) -> None:
    checkpointer(dictionary_store).save(small_state(10), "periodic")

    def denied() -> StorageError:
        return StorageError("access denied", remedy="ask", exit_code=ExitCode.CREDENTIALS)

    store = WrappedStore(dictionary_store, before=raising(denied, place))
    with pytest.raises(CheckpointError, match="access denied") as caught:
        checkpointer(store).save(small_state(20), "periodic")
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert "step 20" in caught.value.message
    assert caught.value.remedy == "ask"
    loads(dictionary_store, 10)
    checkpointer(dictionary_store).save(small_state(20), "periodic")
    loads(dictionary_store, 20)


def forget(store: DictionaryStore, key: str) -> None:
    del store.objects[key]


def cut(store: DictionaryStore, key: str) -> None:
    store.objects[key] = store.objects[key][:-1]


@pytest.mark.parametrize("damage", [forget, cut])
def test_an_object_lost_before_the_marker_prevents_the_commit(
    dictionary_store: DictionaryStore, damage: Callable[[DictionaryStore, str], None]
) -> None:
    def harm(action: str, key: str) -> None:
        if key.endswith("manifest.json"):
            damage(dictionary_store, key.replace("manifest.json", "rank-0.safetensors"))

    with pytest.raises(CheckpointError, match=r"rank-0\.safetensors was written with"):
        checkpointer(WrappedStore(dictionary_store, after=harm)).save(small_state(10), "periodic")
    assert list_commits(dictionary_store) == []


def test_a_quarantined_step_can_be_committed_again(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store)
    first = keeper.save(small_state(10), "periodic")
    quarantine(dictionary_store, first.marker, "for the test")
    second = keeper.save(small_state(10), "periodic")
    assert (second.generation, second.key) == (1, "ckpt/step-00000010/COMMITTED-1")
    assert list_commits(dictionary_store) == [second]
    loads(dictionary_store, 10)


def piece(name: str, values: torch.Tensor) -> LocalState:
    return LocalState(1, [Piece(name, tuple(values.shape), 0, values)])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (piece("weights", torch.zeros(1)), "canonical"),
        (piece("model/", torch.zeros(1)), "canonical"),
        (piece("model/a", torch.zeros(1, device="meta")), "host memory"),
        (piece("model/a", torch.zeros(1, 1)), "vector"),
        (piece("model/a", torch.zeros(1, dtype=torch.complex64)), "complex64"),
        (LocalState(-1, []), "step"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_is_our_own_mistake(
    dictionary_store: DictionaryStore, state: LocalState, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpointer(dictionary_store).save(state, "periodic")
    assert caught.value.exit_code is ExitCode.PROGRAM
    assert dictionary_store.objects == {}


def test_a_checkpoint_of_another_training_is_not_loaded(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store).save(small_state(10), "periodic")
    other = checkpointer(dictionary_store, training_digest="e" * 64)
    with pytest.raises(CheckpointError, match="another training") as caught:
        loaded_by(other)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    loads(dictionary_store, 10)
