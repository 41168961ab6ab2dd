"""Every bit comes back, and the format on disk is pinned by a checkpoint that was written by hand."""

from __future__ import annotations

import io
import json
import struct
from hashlib import sha256

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import Whole, assert_same, checkpointer, loaded_by, read_whole, small_state, small_whole
from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore
from unimrg_trainer.checkpoint import objects, writer
from unimrg_trainer.checkpoint.objects import BufferStream
from unimrg_trainer.checkpoint.reader import read_manifest
from unimrg_trainer.checkpoint.state import DTYPES, LocalState, Piece
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.checkpoint.writer import assign_to_ranks, split_into_objects


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """Random bytes seen as `dtype`: NaNs with payloads, infinities, subnormals and −0 among them."""
    raw = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return raw % 2 == 0 if dtype is torch.bool else raw.view(dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_round_trip_keeps_every_bit(dictionary_store: DictionaryStore, dtype: torch.dtype) -> None:
    values = every_bit_pattern(dtype)
    state = Whole(
        3,
        {
            "model/flat": values,
            "exp_avg/matrix": values.clone().view(16, -1),
            "exp_avg/transposed": values.view(16, -1).t(),
            "exp_avg_sq/scalar": values[7].clone(),
            "model/empty": values[:0].clone(),
        },
    )
    checkpointer(dictionary_store).save(state.local(), "periodic")
    loaded = loaded_by(checkpointer(dictionary_store))
    assert loaded is not None
    assert_same(loaded[1], state)


def test_loaded_tensors_can_be_changed_without_changing_each_other(dictionary_store: DictionaryStore) -> None:
    checkpointer(dictionary_store).save(small_state(1), "periodic")
    loaded = loaded_by(checkpointer(dictionary_store))
    assert loaded is not None
    loaded[1].tensors["model/head.weight"].fill_(7.0)
    assert loaded[1].tensors["model/head.bias"].equal(small_whole(1).tensors["model/head.bias"])


def mixed(numel: int) -> Whole:
    """Tensors of two types and of several sizes, one of them larger than the others together."""
    generator = torch.Generator().manual_seed(numel)
    sizes = {"model/a": numel, "exp_avg/a": 3, "model/b": 5, "exp_avg_sq/b": 1}
    tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return Whole(7, {**tensors, "model/half": torch.randn(9, generator=generator).bfloat16()})


def test_a_large_share_is_split_into_several_objects(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "OBJECT_BYTES", 100)
    commit = checkpointer(dictionary_store).save(mixed(60).local(), "periodic")
    names = [key.removeprefix(commit.folder) for key in dictionary_store.objects if "rank-" in key]
    assert names == ["rank-0.safetensors", "rank-0.part-1.safetensors", "rank-0.part-2.safetensors"]
    loaded = loaded_by(checkpointer(dictionary_store))
    assert loaded is not None
    assert_same(loaded[1], mixed(60))


def test_every_object_is_a_safetensors_file_that_others_open(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "OBJECT_BYTES", 200)
    expected = mixed(60)
    commit = checkpointer(dictionary_store).save(expected.local(), "periodic")
    found: dict[str, torch.Tensor] = {}
    for key, content in dictionary_store.objects.items():
        if key.endswith(".safetensors"):
            assert (8 + int.from_bytes(content[:8], "little")) % 8 == 0, "tensors are aligned"
            found |= safetensors.torch.load(content)
    runs = [found.pop("model/a[0:50]"), found.pop("model/a[50:60]")]
    found["model/a"] = torch.cat(runs)
    assert_same(Whole(commit.step, {name: found[name] for name in expected.tensors}), expected)
    assert found.keys() == expected.tensors.keys()


@given(world_size=st.integers(1, 4), chunk=st.integers(1, 50), start=st.integers(0, 60), count=st.integers(0, 60))
def test_any_range_of_elements_is_what_was_written_there(world_size: int, chunk: int, start: int, count: int) -> None:
    store, expected = DictionaryStore(), mixed(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "OBJECT_BYTES", 90)
        patch.setattr(writer, "CHUNK_BYTES", chunk)
        patch.setattr(objects, "CHUNK_BYTES", chunk)
        patch.setattr(objects, "FETCH_BYTES", 3 * chunk)
        pieces = [piece for rank in range(world_size) for piece in expected.local(rank, world_size).pieces]
        commit = checkpointer(store).save(LocalState(7, pieces), "periodic")
        reader = CommitReader(store, commit, read_manifest(store, commit))
        count = min(count, 60 - start)
        assert reader.read("model/a", start, count).equal(expected.tensors["model/a"][start : start + count])
        assert_same(read_whole(reader), expected)
        with pytest.raises(ValueError, match="60 elements"):
            reader.read("model/a", start, 61 - start)


def test_a_rank_fetches_little_more_than_it_needs(
    dictionary_store: DictionaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 256)
    monkeypatch.setattr(objects, "CHUNK_BYTES", 256)
    commit = checkpointer(dictionary_store).save(mixed(100_000).local(), "periodic")
    manifest = read_manifest(dictionary_store, commit)
    fetched: list[int] = []

    class Counting(WrappedStore):
        def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            content = self.inner.get(key, offset, length)
            fetched.append(len(content))
            return content

    reader = CommitReader(Counting(dictionary_store), commit, manifest)
    assert reader.read("model/a", 20_000, 1000).equal(mixed(100_000).tensors["model/a"][20_000:21_000])
    assert sum(fetched) <= 4000 + 4 * 256, "with the header and a part of a chunk at both ends"
    assert reader.read("model/b").equal(mixed(100_000).tensors["model/b"])


def test_a_stream_of_buffers_reads_like_the_file_it_stands_for() -> None:
    buffers = [b"0123", b"", b"456789ab", b"c"]
    stream, file = BufferStream(map(memoryview, buffers)), io.BytesIO(b"".join(buffers))
    for offset, whence, length in ((0, 0, 3), (2, 1, 7), (-2, 2, 9), (0, 2, 1), (3, 0, -1), (4, 0, 0)):
        assert stream.seek(offset, whence) == file.seek(offset, whence)
        assert stream.read(length) == file.read(length)
        assert stream.tell() == file.tell()


SIZES = st.dictionaries(st.text("abc", min_size=1), st.integers(0, 1000), max_size=30)


@given(sizes=SIZES, world_size=st.integers(1, 9))
def test_shares_hold_every_tensor_once_and_are_balanced(sizes: dict[str, int], world_size: int) -> None:
    dealt = assign_to_ranks(sizes, world_size)
    assert len(dealt) == world_size
    assert sorted(name for names in dealt for name in names) == sorted(sizes)
    loads = [sum(sizes[name] for name in names) for names in dealt]
    assert max(loads) <= sum(loads) / world_size + max(sizes.values(), default=0)
    assert dealt == assign_to_ranks(dict(reversed(sizes.items())), world_size), "the order of names may not matter"


@given(sizes=SIZES, limit=st.integers(4, 2000))
def test_parts_keep_every_element_and_the_limit(sizes: dict[str, int], limit: int) -> None:
    pieces = [Piece(name, (size,), 0, torch.arange(size).to(torch.float32)) for name, size in sizes.items()]
    cut = split_into_objects(pieces, limit)
    assert all(part and sum(piece.values.nbytes for piece in part) <= limit for part in cut)
    held: dict[str, list[float]] = {name: [] for name in sizes}
    for piece in (piece for part in cut for piece in part):
        assert piece.start == len(held[piece.name]), "in their order"
        held[piece.name] += piece.values.tolist()
    assert held == {name: list(range(size)) for name, size in sizes.items()}
    whole = [name for name, size in sizes.items() if 4 * size <= limit]
    assert len([piece for part in cut for piece in part if piece.name in whole]) == len(whole), "these are not cut"


def test_a_checkpoint_of_schema_2_written_by_hand_is_read(dictionary_store: DictionaryStore) -> None:
    """What is written here never changes: it stands for the checkpoints that users have."""
    first = {"model/w[0:2]": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    second = {"model/w[2:3]": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    contents = {}
    for rank, (header, values) in enumerate([(first, (1.5, -2.0)), (second, (4.0,))]):
        text = json.dumps(header).encode()
        contents[f"rank-{rank}.safetensors"] = (
            struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(values)}f", *values)
        )
    ends = {name: len(content) for name, content in contents.items()}
    folder = "ckpt/step-00000005/attempt-3-0123abcd/"
    manifest = json.dumps(
        {
            "schema_version": 2,
            "step": 5,
            "attempt": 3,
            "uid": "u",
            "world_size": 2,
            "strategy": "ddp",
            "reason": "periodic",
            "created": "2026-11-24T12:00:00+00:00",
            "training_digest": "c",
            "data_digest": "d",
            "mlflow_run_id": None,
            "spool_segments": [],
            "objects": {
                name: {
                    "size": len(content),
                    "chunk_bytes": 50,
                    "sha256": [sha256(content[at : at + 50]).hexdigest() for at in range(0, len(content), 50)],
                }
                for name, content in contents.items()
            },
            "tensors": {
                "model/w": {
                    "dtype": "float32",
                    "shape": [3],
                    "pieces": [
                        {
                            "object": "rank-0.safetensors",
                            "offset": ends["rank-0.safetensors"] - 8,
                            "start": 0,
                            "count": 2,
                        },
                        {
                            "object": "rank-1.safetensors",
                            "offset": ends["rank-1.safetensors"] - 4,
                            "start": 2,
                            "count": 1,
                        },
                    ],
                }
            },
        }
    ).encode()
    marker = {"schema_version": 2, "manifest": folder + "manifest.json", "sha256": sha256(manifest).hexdigest()}
    for name, content in contents.items():
        dictionary_store.put(folder + name, content)
    dictionary_store.put(folder + "manifest.json", manifest)
    dictionary_store.put("ckpt/step-00000005/COMMITTED-0", json.dumps(marker).encode())
    loaded = loaded_by(checkpointer(dictionary_store, training_digest="c"))
    assert loaded is not None
    assert (loaded[0].step, loaded[0].attempt) == (5, 3)
    assert loaded[1].tensors["model/w"].tolist() == [1.5, -2.0, 4.0]
