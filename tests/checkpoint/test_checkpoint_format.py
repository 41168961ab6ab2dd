"""Every bit comes back, and the format on disk is pinned by a checkpoint that was written by hand."""

from __future__ import annotations

import json
import struct
from hashlib import sha256

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import SingleProcess, assert_same, checkpointer, small_state
from tests.support.dictionary_store import DictionaryStore
from unimrg_trainer.checkpoint import writer
from unimrg_trainer.checkpoint.discover import load_newest
from unimrg_trainer.checkpoint.state import DTYPES, TrainingState
from unimrg_trainer.checkpoint.writer import parts, shares


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """Random bytes seen as `dtype`: NaNs with payloads, infinities, subnormals and −0 among them."""
    raw = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return raw % 2 == 0 if dtype is torch.bool else raw.view(dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_a_round_trip_keeps_every_bit(dictionary_store: DictionaryStore, name: str) -> None:
    values = every_bit_pattern(DTYPES[name])
    state = TrainingState(
        3,
        {
            "model/flat": values,
            "exp_avg/matrix": values.clone().view(16, -1),
            "exp_avg/transposed": values.view(16, -1).t(),
            "exp_avg_sq/scalar": values[7].clone(),
            "model/empty": values[:0].clone(),
        },
    )
    checkpointer(dictionary_store).save(state, "periodic")
    loaded = checkpointer(dictionary_store).load_newest()
    assert loaded is not None
    assert_same(loaded[1], state)


def test_loaded_tensors_can_be_changed_without_changing_each_other(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store).save(small_state(1), "periodic")
    loaded = checkpointer(dictionary_store).load_newest()
    assert loaded is not None
    loaded[1].tensors["model/head.weight"].fill_(7.0)
    assert loaded[1].tensors["model/head.bias"].equal(small_state(1).tensors["model/head.bias"])


def test_a_large_share_is_split_into_several_objects(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "OBJECT_BYTES", 100)
    commit = checkpointer(dictionary_store).save(small_state(1), "periodic")
    names = [key.removeprefix(commit.folder) for key in dictionary_store.objects if "rank-" in key]
    assert names[:3] == ["rank-0.safetensors", "rank-0.part-1.safetensors", "rank-0.part-2.safetensors"]
    loaded = checkpointer(dictionary_store).load_newest()
    assert loaded is not None
    assert_same(loaded[1], small_state(1))


SIZES = st.dictionaries(st.text("abc", min_size=1), st.integers(0, 1000), max_size=30)


@given(sizes=SIZES, world_size=st.integers(1, 9))
def test_shares_hold_every_tensor_once_and_are_balanced(sizes: dict[str, int], world_size: int) -> None:
    dealt = shares(sizes, world_size)
    assert len(dealt) == world_size
    assert sorted(name for names in dealt for name in names) == sorted(sizes)
    loads = [sum(sizes[name] for name in names) for names in dealt]
    assert max(loads) <= sum(loads) / world_size + max(sizes.values(), default=0)
    assert dealt == shares(dict(reversed(sizes.items())), world_size), "the order of names may not matter"


@given(sizes=SIZES, limit=st.integers(1, 2000))
def test_parts_keep_the_order_and_the_limit(sizes: dict[str, int], limit: int) -> None:
    names = sorted(sizes)
    cut = parts(names, sizes, limit)
    assert [name for part in cut for name in part] == names
    assert all(len(part) == 1 or sum(sizes[name] for name in part) <= limit for part in cut)


def test_a_checkpoint_of_schema_1_written_by_hand_is_read(dictionary_store: DictionaryStore) -> None:
    """What is written here never changes: it stands for the checkpoints that users have."""
    header = json.dumps({"model/w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(header)) + header + struct.pack("<ff", 1.5, -2.0)
    folder = "ckpt/step-00000005/attempt-3-0123abcd/"
    manifest = json.dumps(
        {
            "schema_version": 1,
            "step": 5,
            "attempt": 3,
            "uid": "u",
            "world_size": 1,
            "strategy": "ddp",
            "reason": "periodic",
            "created": "2026-11-24T12:00:00+00:00",
            "training_digest": "c",
            "data_digest": "d",
            "mlflow_run_id": None,
            "spool_segments": [],
            "objects": {"rank-0.safetensors": {"size": len(data), "sha256": sha256(data).hexdigest()}},
            "tensors": {"model/w": {"object": "rank-0.safetensors", "dtype": "float32", "shape": [2]}},
        }
    ).encode()
    marker = {"schema_version": 1, "manifest": folder + "manifest.json", "sha256": sha256(manifest).hexdigest()}
    dictionary_store.put(folder + "rank-0.safetensors", data)
    dictionary_store.put(folder + "manifest.json", manifest)
    dictionary_store.put("ckpt/step-00000005/COMMITTED-0", json.dumps(marker).encode())
    loaded = load_newest(dictionary_store, SingleProcess())
    assert loaded is not None
    assert (loaded[0].step, loaded[0].attempt) == (5, 3)
    assert loaded[1].tensors["model/w"].tolist() == [1.5, -2.0]
