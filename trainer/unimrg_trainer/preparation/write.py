"""Stores shards that do not depend on who makes them, and derives a split's manifest from what is stored.

A shard's key and its items follow from data set, split and number. Each is put on condition that it does not exist, and
whatever the store then holds counts: the index and, from all indices, the manifest are derived from the stored tar. So
they agree even if two writers encode the same pixels into different bytes, and a writer that starts later makes what is
missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.shards import (
    NAMED,
    TEXT_MEMBER,
    CorruptDataError,
    IndexEntry,
    IssueCount,
    ItemIssue,
    Manifest,
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
HELD_OUT_TOO = "the image is held out, too"
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


@dataclass(frozen=True, eq=False)
class Summary:
    """What the manifest needs of one index: 16 bytes for a sample, which takes 3.7 kB as objects of an index."""

    shard: Shard
    maps: Counter[str]
    """Map → images that have it."""
    least_questions: int | None
    """Questions about the image about which there are fewest; None without images."""
    issues: dict[str, IssueCount]
    images: np.ndarray
    """int64 [N, 2]: number of each sample with an image, length and checksum of its file in one."""
    first_text: int | None
    """Number of the first sample of text alone."""


def read_indices(store: ObjectStore, prefix: str, parts: Sequence[Part]) -> dict[Part, Summary]:
    """Return what the index of every part says. Raises NotFound, CorruptDataError."""

    def read(part: Part) -> Summary:
        key = _key(prefix, part) + ".idx"
        content = store.get(key)
        index = parse(ShardIndex, content, f"{store.uri}/{key}")
        _check_items(index, part, f"{store.uri}/{key}")
        return _summary(part, index, sha256(content))

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(parts, pool.map(read, parts), strict=True))


def _summary(part: Part, index: ShardIndex, digest: str) -> Summary:
    maps, images, questions, first_text = Counter[str](), list[tuple[int, int]](), list[int](), None
    for sample in index.samples:
        number = int(sample.key.rpartition("-")[2])
        if sample.image is not None:
            maps.update(sample.maps)
            images.append((number, sample.image.length << 32 | sample.image.crc32))
            questions.append(sample.questions)
        elif first_text is None:
            first_text = number
    shard = Shard(
        name=part.name,
        samples=len(index.samples),
        questions=index.questions,
        length=index.length,
        sha256=index.sha256,
        index_sha256=digest,
    )
    pairs = np.array(images, np.int64).reshape(-1, 2)
    return Summary(shard, maps, min(questions, default=None), issue_counts(index.issues), pairs, first_text)


def put_manifest(
    store: ObjectStore, prefix: str, split: str, found: Mapping[Part, Summary], provenance: Mapping[str, Any]
) -> str:
    """Store a split's manifest, which follows from all indices in order, unless there is one; return its sha256.

    Raises UserError (65) where samples of text alone come before images, as those of a source of a package may.
    """
    summaries = [one for part, one in found.items() if part.split == split]
    images = _images(found, split)
    first_text = next((one.first_text for one in summaries if one.first_text is not None), None)
    if first_text is not None and len(images) and images[-1, 0] > first_text:
        raise UserError(
            f"{sample_key(split, first_text)} is text alone and stands before {sample_key(split, int(images[-1, 0]))}, "
            "which has an image",
            remedy="a source gives items with an image first, and says in `texts` how many text alone follow",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    manifest = Manifest(
        split=split,
        samples=sum(one.shard.samples for one in summaries),
        images=len(images),
        questions=sum(one.shard.questions for one in summaries),
        least_questions=min((one.least_questions for one in summaries if one.least_questions is not None), default=0),
        maps=dict(sorted(sum((one.maps for one in summaries), Counter[str]()).items())),
        shards=[one.shard for one in summaries],
        issues=added([*(one.issues for one in summaries), issue_counts(_duplicates(store, prefix, split, found))]),
        provenance=dict(provenance),
    )
    return sha256(_put_first(store, join(prefix, split, "manifest.json"), as_json(manifest)))


def issue_counts(items: Iterable[ItemIssue]) -> dict[str, IssueCount]:
    """Return the counts of items with issues by reason."""
    by_reason: dict[str, list[ItemIssue]] = {}
    for item in items:
        by_reason.setdefault(item.reason, []).append(item)
    return {
        reason: IssueCount(
            count=len(found), left_out=sum(item.left_out for item in found), names=[one.name for one in found[:NAMED]]
        )
        for reason, found in sorted(by_reason.items())
    }


def added(counts: Iterable[Mapping[str, IssueCount]]) -> dict[str, IssueCount]:
    """Return the sums of counts by reason, with the first names."""
    by_reason: dict[str, list[IssueCount]] = {}
    for one in counts:
        for reason, issue in one.items():
            by_reason.setdefault(reason, []).append(issue)
    return {
        reason: IssueCount(
            count=sum(one.count for one in found),
            left_out=sum(one.left_out for one in found),
            names=[name for one in found for name in one.names][:NAMED],
        )
        for reason, found in sorted(by_reason.items())
    }


def _images(found: Mapping[Part, Summary], split: str) -> np.ndarray:
    return np.concatenate(
        [np.empty((0, 2), np.int64), *(one.images for part, one in found.items() if part.split == split)]
    )


def _duplicates(store: ObjectStore, prefix: str, split: str, found: Mapping[Part, Summary]) -> list[ItemIssue]:
    """Return the images of a split whose content is that of an earlier one, and those to train on that are held out.

    The first of each kind are named as their source names them, with the other's name.
    """
    images = _images(found, split)
    first = {content: number for number, content in images[::-1].tolist()}
    pairs = [(number, DUPLICATE, split, first[content]) for number, content in images.tolist()]
    pairs = [(number, reason, split, other) for number, reason, split, other in pairs if other != number]
    if split == "train":
        held_out = {content: number for number, content in _images(found, "heldOut")[::-1].tolist()}
        pairs += [
            (number, HELD_OUT_TOO, "heldOut", held_out[content])
            for number, content in images.tolist()
            if content in held_out
        ]

    @cache
    def samples(part: Part) -> dict[str, IndexEntry]:
        key = _key(prefix, part) + ".idx"
        return {one.key: one for one in parse(ShardIndex, store.get(key), f"{store.uri}/{key}").samples}

    def name(split: str, number: int) -> str:
        key = sample_key(split, number)
        part = next(part for part in found if part.split == split and number in part.numbers)
        texts = samples(part)[key].members[TEXT_MEMBER]
        return str(json.loads(store.get(_key(prefix, part), texts.offset, texts.length)).get("name") or key)

    seen, issues = Counter[str](), list[ItemIssue]()
    for number, reason, place, other in pairs:
        seen[reason] += 1
        named = seen[reason] <= NAMED
        text = f"{name(split, number)} (as {name(place, other)})" if named else sample_key(split, number)
        issues.append(ItemIssue(number=number, name=text, reason=reason, left_out=False))
    return issues


def _key(prefix: str, part: Part) -> str:
    return join(prefix, part.split, part.name)


def _put_first(store: ObjectStore, key: str, content: bytes) -> bytes:
    """Write `content` unless there is an object under `key`; return what is there, which every writer goes on from."""
    return content if put_once(store, key, content) else store.get(key)


def _check_items(index: ShardIndex, part: Part, where: str) -> None:
    """Raise CorruptDataError unless a shard is made of the items of its part: each is a sample or left out."""
    left_out = {sample_key(part.split, item.number) for item in index.issues if item.left_out}
    expected = [key for number in part.numbers if (key := sample_key(part.split, number)) not in left_out]
    if [sample.key for sample in index.samples] != expected:
        raise CorruptDataError(
            f"{where} does not hold the samples from {part.numbers.start} on",
            remedy="delete this data set and prepare it again",
        )
