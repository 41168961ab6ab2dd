"""Writes a split as shards that do not depend on who writes them, so that any number of writers may work at once.

A shard's key follows from data set, split and number; its samples begin where the shard before it ends. Each is put on
condition that it does not exist, and whatever the store then holds counts: the index and, from all indices, the
manifest are derived from the stored tar. So they agree even if two writers encode the same pixels into different bytes,
and a writer that starts later goes on behind the shards that are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import numpy as np

from unimrg_api.errors import UserError
from unimrg_trainer.data.decode import encode_png, image_extension
from unimrg_trainer.data.shards import (
    TAR_END,
    TEXT_MEMBER,
    CorruptDataError,
    Manifest,
    Shard,
    ShardIndex,
    as_json,
    index_of,
    join,
    parse,
    sha256,
    tar_entry,
)
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.storage.base import NotFound, ObjectStore, put_once

SAMPLES_PER_SHARD = 2048
BYTES_PER_SHARD = 64 * 2**20
"""A shard is closed by whichever it reaches first."""

_MAP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

Members = Mapping[str, bytes]
"""Extension → content of the files of one sample."""


def write_split(
    store: ObjectStore,
    prefix: str,
    split: str,
    count: int,
    members: Callable[[int], Members],
    progress: Callable[[int], None] = lambda done: None,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> str:
    """Write samples `members(0)` … `members(count − 1)` of a split, then its manifest; return the manifest's sha256.

    `progress` is called with the number of samples that are done. Raises StorageError; CorruptDataError if the store
    holds something else where a shard belongs.
    """
    shards: list[Shard] = []
    start = 0
    while start < count:
        name = f"{split}-{len(shards):06d}.tar"
        key = join(prefix, split, name)
        stored = _find_index(store, key)
        if stored is None:
            tar = bytearray()
            number = start
            while number < min(start + samples_per_shard, count) and len(tar) < bytes_per_shard:
                for extension, content in members(number).items():
                    tar += tar_entry(f"{sample_key(split, number)}.{extension}", content)
                number += 1
                progress(number)
            stored = _put_shard(store, key, bytes(tar) + TAR_END)
        else:
            progress(start + len(stored[0].samples))
        index, content = stored
        _check_keys(index, split, start, count, f"{store.uri}/{key}")
        shards.append(
            Shard(
                name=name,
                samples=len(index.samples),
                questions=index.questions,
                length=index.length,
                sha256=index.sha256,
                index_sha256=sha256(content),
            )
        )
        start += len(index.samples)
    questions = sum(shard.questions for shard in shards)
    manifest = as_json(Manifest(split=split, samples=count, questions=questions, shards=shards))
    return sha256(_put_first(store, join(prefix, split, "manifest.json"), manifest))


def sample_key(split: str, number: int) -> str:
    """Return the key of a sample within its data set."""
    return f"{split}-{number:08d}"


def members_of(sample: SourceSample) -> dict[str, bytes]:
    """Return the files of a sample: texts and image first, so that one short read serves whoever needs no map.

    Raises ValueError for an image that is no JPEG or PNG, UserError for a map with an impossible name.
    """
    image = encode_png(sample.image) if isinstance(sample.image, np.ndarray) else sample.image
    texts = {"caption": sample.caption, "questions": list(sample.questions)}
    members = {TEXT_MEMBER: json.dumps(texts).encode(), image_extension(image): image}
    for name, pixels in sample.maps.items():
        if not _MAP_NAME.fullmatch(name):
            raise UserError(f"a source gives a map named {name!r}", remedy="use letters, digits, - and _")
        members[f"{name}.png"] = encode_png(pixels)
    return members


def _find_index(store: ObjectStore, key: str) -> tuple[ShardIndex, bytes] | None:
    """Return the index of a shard that is complete already, parsed and as stored; None if it is still to be written."""
    try:
        content = store.get(key + ".idx")
    except NotFound:
        return None
    index = parse(ShardIndex, content, f"{store.uri}/{key}.idx")
    return (index, content) if store.size(key) == index.length else None


def _put_shard(store: ObjectStore, key: str, tar: bytes) -> tuple[ShardIndex, bytes]:
    """Store a tar unless there is one, then the index of the one that is there; return that index as `_find_index`."""
    tar = _put_first(store, key, tar)
    index = index_of(tar, f"{store.uri}/{key}")
    content = _put_first(store, key + ".idx", as_json(index))
    if parse(ShardIndex, content, f"{store.uri}/{key}.idx") != index:
        raise CorruptDataError(
            f"{store.uri}/{key}.idx is not the index of the shard beside it",
            remedy="delete this data set and prepare it again",
        )
    return index, content


def _put_first(store: ObjectStore, key: str, content: bytes) -> bytes:
    """Write `content` unless there is an object under `key`; return what is there, which every writer goes on from."""
    return content if put_once(store, key, content) else store.get(key)


def _check_keys(index: ShardIndex, split: str, start: int, count: int, where: str) -> None:
    expected = [sample_key(split, number) for number in range(start, min(start + len(index.samples), count))]
    if not expected or [sample.key for sample in index.samples] != expected:
        raise CorruptDataError(
            f"{where} does not hold the samples from {start} on", remedy="delete this data set and prepare it again"
        )
