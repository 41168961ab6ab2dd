"""Stores shards that do not depend on who makes them, and derives a split's manifest from what is stored.

A shard's key and its items follow from data set, split and number. Each is put on condition that it does not exist, and
whatever the store then holds counts: the index and, from all indices, the manifest are derived from the stored tar. So
they agree even if two writers encode the same pixels into different bytes, and a writer that starts later makes what is
missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from unimrg_trainer.data.shards import (
    NAMED,
    CorruptDataError,
    Manifest,
    OddItem,
    Oddity,
    Shard,
    ShardIndex,
    as_json,
    index_of,
    join,
    parse,
    sha256,
)
from unimrg_trainer.preparation.items import Part
from unimrg_trainer.storage.base import ObjectStore, put_once

DUPLICATE = "the image is that of an earlier sample"
_READERS = 16


def sample_key(split: str, number: int) -> str:
    """Return the key of a sample within its data set."""
    return f"{split}-{number:08d}"


def stored_parts(store: ObjectStore, prefix: str, parts: Iterable[Part]) -> set[Part]:
    """Return the parts that are in the store, with their indices."""
    there = {key for key, _ in store.list(prefix + "/")}
    return {part for part in parts if {_key(prefix, part), _key(prefix, part) + ".idx"} <= there}


def put_shard(store: ObjectStore, prefix: str, part: Part, tar: bytes | None = None) -> ShardIndex:
    """Store a tar unless there is one, then the index of the one that is there, which is returned.

    Without `tar` there must be one. Raises StorageError; CorruptDataError if the store holds something else.
    """
    key = _key(prefix, part)
    tar = store.get(key) if tar is None else _put_first(store, key, tar)
    index = index_of(tar, f"{store.uri}/{key}")
    _check_items(index, part, f"{store.uri}/{key}")
    content = _put_first(store, key + ".idx", as_json(index))
    if parse(ShardIndex, content, f"{store.uri}/{key}.idx") != index:
        raise CorruptDataError(
            f"{store.uri}/{key}.idx is not the index of the shard beside it",
            remedy="delete this data set and prepare it again",
        )
    return index


def read_indices(store: ObjectStore, prefix: str, parts: Sequence[Part]) -> dict[Part, tuple[ShardIndex, bytes]]:
    """Return the index of every part, parsed and as stored. Raises NotFound, CorruptDataError."""

    def read(part: Part) -> tuple[ShardIndex, bytes]:
        key = _key(prefix, part) + ".idx"
        content = store.get(key)
        index = parse(ShardIndex, content, f"{store.uri}/{key}")
        _check_items(index, part, f"{store.uri}/{key}")
        return index, content

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(parts, pool.map(read, parts), strict=True))


def put_manifest(
    store: ObjectStore,
    prefix: str,
    split: str,
    indices: Mapping[Part, tuple[ShardIndex, bytes]],
    provenance: Mapping[str, Any],
) -> str:
    """Store a split's manifest, which follows from its indices, unless there is one; return its sha256."""
    shards = [
        Shard(
            name=part.name,
            samples=len(index.samples),
            questions=index.questions,
            length=index.length,
            sha256=index.sha256,
            index_sha256=sha256(content),
        )
        for part, (index, content) in indices.items()
    ]
    samples = [sample for index, _ in indices.values() for sample in index.samples]
    odd = [item for index, _ in indices.values() for item in index.odd]
    seen: set[tuple[int, int]] = set()
    for sample in samples:
        if sample.image is None:
            continue
        content_of = (sample.image.length, sample.image.crc32)
        if content_of in seen:
            number = int(sample.key.rpartition("-")[2])
            odd.append(OddItem(number=number, name=sample.key, reason=DUPLICATE, left_out=False))
        seen.add(content_of)
    manifest = Manifest(
        split=split,
        samples=len(samples),
        images=sum(sample.image is not None for sample in samples),
        questions=sum(shard.questions for shard in shards),
        shards=shards,
        odd=oddities(odd),
        provenance=dict(provenance),
    )
    return sha256(_put_first(store, join(prefix, split, "manifest.json"), as_json(manifest)))


def oddities(items: Iterable[OddItem]) -> dict[str, Oddity]:
    """Return the counts of odd items by reason."""
    by_reason: dict[str, list[OddItem]] = {}
    for item in items:
        by_reason.setdefault(item.reason, []).append(item)
    return {
        reason: Oddity(
            count=len(found), left_out=sum(item.left_out for item in found), names=[one.name for one in found[:NAMED]]
        )
        for reason, found in sorted(by_reason.items())
    }


def _key(prefix: str, part: Part) -> str:
    return join(prefix, part.split, part.name)


def _put_first(store: ObjectStore, key: str, content: bytes) -> bytes:
    """Write `content` unless there is an object under `key`; return what is there, which every writer goes on from."""
    return content if put_once(store, key, content) else store.get(key)


def _check_items(index: ShardIndex, part: Part, where: str) -> None:
    """Raise CorruptDataError unless a shard is made of the items of its part: each is a sample or left out."""
    left_out = {sample_key(part.split, item.number) for item in index.odd if item.left_out}
    expected = [key for number in part.numbers if (key := sample_key(part.split, number)) not in left_out]
    if [sample.key for sample in index.samples] != expected:
        raise CorruptDataError(
            f"{where} does not hold the samples from {part.numbers.start} on",
            remedy="delete this data set and prepare it again",
        )
