"""Shards: plain tars with an index that finds every byte, and damage that is never silent."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.written_shards import write_split
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.shards import (
    CorruptDataError,
    IndexEntry,
    Manifest,
    Shard,
    extent_of,
    read_index,
    read_manifest,
    read_members,
    sha256,
)
from unimrg_trainer.storage import ObjectStore

SAMPLES = {
    f"train-{index:08d}": {
        "json": json.dumps({"questions": [index, 0]}).encode(),
        "png": bytes([index]) * (500 + index),
    }
    for index in range(5)
}


class CountingStore(DictionaryStore):
    """Records the length of every read; corrupts the first `bad_reads` ranged ones."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.bad_reads = 0

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        content = super().get(key, offset, length)
        self.reads.append(len(content))
        if length is not None and self.bad_reads:
            self.bad_reads -= 1
            return content[:-1] + bytes([content[-1] ^ 1])
        return content


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def write(store: ObjectStore, **limits: int) -> Manifest:
    samples = list(SAMPLES.values())
    return read_manifest(store, "data", "train", write_split(store, "data", "train", 5, samples.__getitem__, **limits))


def samples_of(store: DictionaryStore, manifest: Manifest) -> list[IndexEntry]:
    return [sample for shard in manifest.shards for sample in read_index(store, "data", "train", shard)]


def contents_of(store: DictionaryStore, shard: Shard, sample: IndexEntry, names: list[str]) -> dict[str, bytes]:
    return read_members(sample, names, extent_of(store, "data", "train", shard, sample, names))


def test_tarfile_reads_what_was_written(store: CountingStore) -> None:
    manifest = write(store, samples_per_shard=2)
    found: dict[str, dict[str, bytes]] = {}
    for shard in manifest.shards:
        content_of_tar = io.BytesIO(store.objects[f"data/train/{shard.name}"])
        with tarfile.open(fileobj=content_of_tar, mode="r|") as tar:  # as a stream, as webdataset reads it
            for info in tar:
                key, _, extension = info.name.partition(".")
                content = tar.extractfile(info)
                assert content is not None
                found.setdefault(key, {})[extension] = content.read()
    assert found == SAMPLES


def test_the_manifest_counts_and_names_every_shard_with_its_digests(store: CountingStore) -> None:
    manifest = write(store, samples_per_shard=2)
    assert [shard.samples for shard in manifest.shards] == [2, 2, 1]
    assert (manifest.samples, manifest.questions) == (5, 10)
    assert (manifest.images, manifest.maps, manifest.least_questions) == (5, {}, 2)
    for shard in manifest.shards:
        tar = store.objects[f"data/train/{shard.name}"]
        assert (shard.sha256, shard.length) == (sha256(tar), len(tar))
        assert shard.index_sha256 == sha256(store.objects[f"data/train/{shard.name}.idx"])
    assert store.writes[-1] == "data/train/manifest.json"


def test_members_are_read_by_one_ranged_read(store: CountingStore) -> None:
    manifest = write(store)
    shard = manifest.shards[0]
    for sample in samples_of(store, manifest):
        store.reads.clear()
        contents = contents_of(store, shard, sample, ["json", "png"])
        assert contents == SAMPLES[sample.key]
        assert len(store.reads) == 1
        assert store.reads[0] < shard.length / 2


def test_a_read_that_goes_wrong_once_is_repeated(store: CountingStore) -> None:
    manifest = write(store)
    sample = samples_of(store, manifest)[3]
    store.bad_reads = 1
    contents = contents_of(store, manifest.shards[0], sample, ["json", "png"])
    assert contents == SAMPLES[sample.key]


def test_a_corrupt_byte_is_named_by_shard_key_and_offset(store: CountingStore) -> None:
    manifest = write(store)
    shard, sample = manifest.shards[0], samples_of(store, manifest)[3]
    place = sample.members["png"].offset + 7
    tar = bytearray(store.objects[f"data/train/{shard.name}"])
    tar[place] ^= 1
    store.objects[f"data/train/{shard.name}"] = bytes(tar)
    with pytest.raises(CorruptDataError) as caught:
        contents_of(store, shard, sample, ["json", "png"])
    for part in (shard.name, "train-00000003", str(sample.members["png"].offset), "checksum"):
        assert part in caught.value.message
    assert caught.value.exit_code is ExitCode.DATA_CORRUPT
    assert caught.value.remedy
    for other in samples_of(store, manifest):
        if other.key != sample.key:
            assert contents_of(store, shard, other, ["png"])


def test_a_truncated_shard_is_an_error_with_a_name(store: CountingStore) -> None:
    manifest = write(store)
    key = f"data/train/{manifest.shards[0].name}"
    last = samples_of(store, manifest)[-1]
    for end in (last.members["png"].offset + 10, last.members["json"].offset - 600):
        store.objects[key] = store.objects[key][:end]
        with pytest.raises(CorruptDataError, match=r"train-00000004.*ends after"):
            contents_of(store, manifest.shards[0], last, ["json", "png"])


def test_a_missing_shard_is_an_error_with_a_name(store: CountingStore) -> None:
    manifest = write(store)
    sample = samples_of(store, manifest)[0]
    del store.objects[f"data/train/{manifest.shards[0].name}"]
    with pytest.raises(UserError, match=r"train-000000\.tar.*does not exist") as caught:
        contents_of(store, manifest.shards[0], sample, ["png"])
    assert caught.value.exit_code is ExitCode.INPUT_MISSING


def test_a_changed_index_or_manifest_is_found_by_its_digest(store: CountingStore) -> None:
    manifest = write(store)
    shard = manifest.shards[0]
    index = f"data/train/{shard.name}.idx"
    store.objects[index] = store.objects[index].replace(b"train-00000000", b"train-00000009")
    with pytest.raises(CorruptDataError, match=r"\.tar\.idx does not match"):
        read_index(store, "data", "train", shard)
    with pytest.raises(CorruptDataError, match=r"manifest\.json does not match"):
        read_manifest(store, "data", "train", "0" * 64)
