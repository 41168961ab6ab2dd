"""Published weights in a bucket: fetched once per node and version, and never in part."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from tests.support.s3_stores import Place
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.engine.initial_weights import WeightsSource, load_published
from unimrg_trainer.storage import copies
from unimrg_trainer.storage.base import NotFound, StorageError
from unimrg_trainer.storage.copies import local_file


def weights(value: float) -> bytes:
    return save({"weight": torch.full((2, 3), value), "bias": torch.full((2,), -value)})


def loaded(place: Place, name: str, cache: Path) -> nn.Linear:
    module = nn.Linear(3, 2)
    load_published(module, WeightsSource(f"{place.uri}/{name}", place.storage, cache))
    return module


@pytest.mark.parametrize("name", ["model", "model/", "model/weights %20 1.safetensors"])
def test_weights_are_fetched_once_and_again_when_they_change(s3_place: Place, tmp_path: Path, name: str) -> None:
    key = "weights %20 1.safetensors"
    s3_place.store("model").put(key, weights(1.0))
    s3_place.store("model-2").put(key, weights(9.0))
    assert torch.equal(loaded(s3_place, name, tmp_path).weight, torch.full((2, 3), 1.0))
    with s3_place.counted() as again:
        assert torch.equal(loaded(s3_place, name, tmp_path).bias, torch.full((2,), -1.0))
    assert again.ranges == []
    s3_place.store("model").put(key, weights(2.0))  # the same size
    assert torch.equal(loaded(s3_place, name, tmp_path).weight, torch.full((2, 3), 2.0))


def test_several_processes_of_a_node_fetch_one_copy(
    s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "CHUNK_BYTES", 100)
    content = weights(1.0)
    s3_place.store("model").put("a.safetensors", content)
    found: list[Path] = []
    pieces: list[None] = []

    def fetch() -> None:
        place = local_file(s3_place.store("model"), "a.safetensors", tmp_path, lambda: pieces.append(None))
        found.append(place)

    with s3_place.counted() as requests:
        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert found[0].read_bytes() == content
    assert len(pieces) == len(content) // 100 + 1, "the watchdog hears of each"
    assert len(requests.ranges) == len(content) // 100 + 2  # the last part, and the answer that there is no more


def test_weights_that_are_not_there_are_a_missing_input(s3_place: Place, tmp_path: Path) -> None:
    for name in ("model", "model/a.safetensors"):
        with pytest.raises(UserError) as caught:
            loaded(s3_place, name, tmp_path)
        assert caught.value.exit_code is ExitCode.INPUT_MISSING
        assert f"{s3_place.uri}/{name}" in caught.value.message and "spec.model.init" in caught.value.message
    with pytest.raises(NotFound):
        local_file(s3_place.store("model"), "a.safetensors", tmp_path)


def test_a_copy_gets_its_name_once_its_content_is_on_the_disk(
    s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_content(descriptor: int) -> None:
        done.append("content")
        fsync(descriptor)

    def note_name(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_content)
    monkeypatch.setattr(Path, "replace", note_name)
    s3_place.store("model").put("a.safetensors", weights(1.0))
    local_file(s3_place.store("model"), "a.safetensors", tmp_path)
    assert done == ["content", "name"]


def test_a_missing_bucket_is_named_and_not_taken_for_missing_weights(s3_place: Place, tmp_path: Path) -> None:
    for name in ("model", "a.safetensors"):
        with pytest.raises(StorageError, match="no such bucket") as caught:
            load_published(nn.Linear(3, 2), WeightsSource(f"s3://nobody-made-this/{name}", s3_place.storage, tmp_path))
        assert caught.value.exit_code is ExitCode.INPUT_MISSING
