"""A commit that is not what its digests say is quarantined, and the next older one is taken; never silence."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import checkpointer, loaded_by, loads, small_state
from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, flip
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.commit import Commit, marker_bytes
from unimrg_trainer.checkpoint.discover import damaged_beyond, newest_verified
from unimrg_trainer.checkpoint.manifest import CheckpointError
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.retention import Policy, retain
from unimrg_trainer.storage.base import StorageError

Damage = Callable[[dict[str, bytes], Commit], None]


def data(commit: Commit) -> str:
    return commit.folder + "rank-0.safetensors"


def flip_a_bit(objects: dict[str, bytes], commit: Commit) -> None:
    objects[data(commit)] = flip(objects[data(commit)])


def truncate(objects: dict[str, bytes], commit: Commit) -> None:
    objects[data(commit)] = objects[data(commit)][:-1]


def lose_an_object(objects: dict[str, bytes], commit: Commit) -> None:
    del objects[data(commit)]


def lose_the_manifest(objects: dict[str, bytes], commit: Commit) -> None:
    del objects[commit.manifest_key]


def change_the_manifest(objects: dict[str, bytes], commit: Commit) -> None:
    objects[commit.manifest_key] = objects[commit.manifest_key].replace(b"periodic", b"aperiodc")


def lose_all_data(objects: dict[str, bytes], commit: Commit) -> None:
    for key in [key for key in objects if key.startswith(commit.folder)]:
        del objects[key]


def mark(content: bytes) -> Damage:
    def damage(objects: dict[str, bytes], commit: Commit) -> None:
        objects[commit.key] = content

    return damage


def point_elsewhere(objects: dict[str, bytes], commit: Commit) -> None:
    """The marker of step 20 names the good manifest of step 10."""
    older = next(key for key in objects if "step-00000010" in key and key.endswith("manifest.json"))
    objects[commit.key] = marker_bytes(Commit(10, 0, 1, older, sha256(objects[older]).hexdigest()))


def rewrite_manifest(change: Callable[[dict[str, Any]], None]) -> Damage:
    """A manifest that is wrong although every digest is right."""

    def damage(objects: dict[str, bytes], commit: Commit) -> None:
        manifest = json.loads(objects[commit.manifest_key])
        change(manifest)
        content = json.dumps(manifest).encode()
        objects[commit.manifest_key] = content
        digest = sha256(content).hexdigest()
        objects[commit.key] = marker_bytes(Commit(20, 0, 1, commit.manifest_key, digest))

    return damage


def place_of_scale(manifest: dict[str, Any]) -> dict[str, Any]:
    place: dict[str, Any] = manifest["tensors"]["model/scale"]["pieces"][0]
    return place


def describe_scale(**fields: object) -> Damage:
    """A manifest in which `fields` of one tensor are others."""
    return rewrite_manifest(lambda manifest: manifest["tensors"]["model/scale"].update(fields))


DAMAGES: dict[str, Damage] = {
    "one bit is flipped": flip_a_bit,
    "one byte is cut off": truncate,
    "an object is missing": lose_an_object,
    "the manifest is missing": lose_the_manifest,
    "the manifest was changed": change_the_manifest,
    "the marker has no data": lose_all_data,
    "the marker is empty": mark(b""),
    "the marker is no text": mark(b"\xff\xfe\x00"),
    "the marker is another JSON": mark(b"[1, 2]"),
    "the marker has no version": mark(b'{"manifest": "x", "sha256": "y"}'),
    "the marker names nothing": mark(b'{"schema_version": 2}'),
    "the marker leaves its folder": mark(b'{"schema_version": 2, "manifest": "../../etc/passwd", "sha256": "0"}'),
    "the marker names another step": point_elsewhere,
    "the manifest lacks a field": rewrite_manifest(lambda manifest: manifest.pop("uid")),
    "the manifest has one too many": rewrite_manifest(lambda manifest: manifest.update(more=1)),
    "the manifest is of another step": rewrite_manifest(lambda manifest: manifest.update(step=21)),
    "a tensor is missing": rewrite_manifest(lambda manifest: manifest["tensors"].pop("model/scale")),
    "a tensor has another shape": describe_scale(shape=[1]),
    "a tensor has another type": describe_scale(dtype="float64"),
    "a tensor has an unknown type": describe_scale(dtype="object"),
    "a tensor lies nowhere": rewrite_manifest(
        lambda manifest: place_of_scale(manifest).update(object="rank-9.safetensors")
    ),
    "elements are missing": rewrite_manifest(lambda manifest: place_of_scale(manifest).update(count=0)),
    "elements are there twice": rewrite_manifest(
        lambda manifest: manifest["tensors"]["model/scale"]["pieces"].append(place_of_scale(manifest))
    ),
    "a piece ends behind its object": rewrite_manifest(lambda manifest: place_of_scale(manifest).update(offset=9999)),
    "a piece lies where another does": rewrite_manifest(lambda manifest: place_of_scale(manifest).update(offset=900)),
    "an object lacks a digest": rewrite_manifest(
        lambda manifest: manifest["objects"]["rank-0.safetensors"]["sha256"].pop()
    ),
    "an object lies elsewhere": rewrite_manifest(
        lambda manifest: manifest["objects"].update({"../secret": manifest["objects"]["rank-0.safetensors"]})
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_older_commit_is_taken_and_the_damaged_one_quarantined(
    dictionary_store: DictionaryStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = checkpointer(dictionary_store)
    keeper.save(small_state(10), "periodic")
    damaged = keeper.save(small_state(20), "periodic")
    DAMAGES[name](dictionary_store.objects, damaged)
    with caplog.at_level(logging.WARNING):
        loads(dictionary_store, 10)
    assert "step 20 is quarantined" in caplog.text
    assert dictionary_store.size("ckpt/step-00000020/QUARANTINED-0") is not None
    assert [commit.step for commit in list_commits(dictionary_store)] == [10]
    assert damaged_beyond(dictionary_store, 10) == [20], "what a training that goes on from 10 tells of"

    again = checkpointer(dictionary_store, attempt=2).save(small_state(20), "periodic")
    assert again.generation == 1
    loads(dictionary_store, 20)
    assert damaged_beyond(dictionary_store, 20) == []


@pytest.mark.parametrize("name", [name for name in DAMAGES if DAMAGES[name] is not point_elsewhere])
def test_if_nothing_verifies_the_job_ends_instead_of_starting_anew(
    dictionary_store: DictionaryStore, name: str
) -> None:
    damaged = checkpointer(dictionary_store).save(small_state(20), "periodic")
    DAMAGES[name](dictionary_store.objects, damaged)
    for _ in range(2):  # a restart must not take what was quarantined for an empty prefix
        with pytest.raises(CheckpointError, match="none verifies") as caught:
            loaded_by(checkpointer(dictionary_store))
        assert caught.value.exit_code is ExitCode.NO_VALID_CHECKPOINT
        assert "step 20" in caught.value.message
        assert "spec.checkpoint.uri" in caught.value.remedy
        dictionary_store.delete(damaged.key)  # nor where a person has deleted the marker


def test_sizes_are_enough_to_choose_and_digests_decide_on_reading(dictionary_store: DictionaryStore) -> None:
    keeper = checkpointer(dictionary_store)
    older = keeper.save(small_state(10), "periodic")
    newest = keeper.save(small_state(20), "periodic")

    class WithoutTensors(WrappedStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            assert not key.endswith(".safetensors")
            return self.inner.get(key, offset, length)

    flip_a_bit(dictionary_store.objects, newest)
    assert newest_verified(WithoutTensors(dictionary_store)) == newest
    loads(dictionary_store, 10)
    again = keeper.save(small_state(20), "periodic")
    truncate(dictionary_store.objects, again)
    assert newest_verified(WithoutTensors(dictionary_store)) == older


def test_an_object_of_another_kind_is_refused_even_if_its_content_fits(dictionary_store: DictionaryStore) -> None:
    commit = checkpointer(dictionary_store).save(small_state(20), "periodic")
    dictionary_store.objects[commit.folder + "rank-0.pt"] = dictionary_store.objects[data(commit)]

    def rename(manifest: dict[str, Any]) -> None:
        manifest["objects"] = {"rank-0.pt": manifest["objects"]["rank-0.safetensors"]}
        for tensor in manifest["tensors"].values():
            tensor["pieces"][0]["object"] = "rank-0.pt"

    rewrite_manifest(rename)(dictionary_store.objects, commit)
    with pytest.raises(CheckpointError, match="not a safetensors object"):
        loaded_by(checkpointer(dictionary_store))


def test_a_store_that_is_away_condemns_no_checkpoint(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store).save(small_state(10), "periodic")

    class Away(WrappedStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            raise StorageError("the store is away")

    with pytest.raises(CheckpointError, match="away") as caught:
        loaded_by(checkpointer(Away(dictionary_store)))
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    loads(dictionary_store, 10)


def newer_manifest(objects: dict[str, bytes], commit: Commit) -> None:
    rewrite_manifest(lambda manifest: manifest.update(schema_version=3, tensors="another layout"))(objects, commit)


@pytest.mark.parametrize("newer", [newer_manifest, mark(b'{"schema_version": 3, "new": true}')])
def test_the_schema_of_a_newer_version_is_refused_and_left_alone(
    dictionary_store: DictionaryStore, newer: Damage
) -> None:
    keeper = checkpointer(dictionary_store)
    keeper.save(small_state(10), "periodic")
    newer(dictionary_store.objects, keeper.save(small_state(20), "periodic"))
    before = dict(dictionary_store.objects)
    with pytest.raises(UserError, match="schema version 3") as caught:
        loaded_by(checkpointer(dictionary_store))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert "reads 2" in caught.value.message
    with contextlib.suppress(UserError):
        retain(dictionary_store, Policy(keep_last=1), attempt=9)
    assert dictionary_store.objects == before


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return create, (str(self.path),)


def create(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("digests", ["as written", "made to fit"])
@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_planted_pickle_is_refused_unread(
    dictionary_store: DictionaryStore, tmp_path: Path, kind: str, digests: str
) -> None:
    canary = tmp_path / "executed"
    if kind == "pickle":
        planted = pickle.dumps(Canary(canary))
    else:
        torch.save({"model/scale": Canary(canary)}, tmp_path / "planted")
        planted = (tmp_path / "planted").read_bytes()
    commit = checkpointer(dictionary_store).save(small_state(20), "periodic")
    dictionary_store.objects[data(commit)] = planted
    entry = {"size": len(planted), "chunk_bytes": len(planted), "sha256": [sha256(planted).hexdigest()]}
    if digests == "made to fit":
        rewrite_manifest(lambda manifest: manifest["objects"].update({"rank-0.safetensors": entry}))(
            dictionary_store.objects, commit
        )
    with pytest.raises(CheckpointError) as caught:
        loaded_by(checkpointer(dictionary_store))
    assert caught.value.exit_code is ExitCode.NO_VALID_CHECKPOINT
    assert not canary.exists()
    if kind == "pickle":
        pickle.loads(planted)
        assert canary.exists(), "the canary itself must work"
