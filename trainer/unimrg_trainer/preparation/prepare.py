"""The prepare stage: turns a job's sources into a data set under its digest, published by one marker.

Two jobs that prepare the same data at once write the same shards and publish the same marker; a job that is started
again goes on behind the shards that are there (docs/method/data.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unimrg_api.digests import sha256_of
from unimrg_api.spec_platform import SourceSpec
from unimrg_trainer.data import shards
from unimrg_trainer.data.publication import SPLITS, Publication, folder_of, publish, published
from unimrg_trainer.data.shards import join
from unimrg_trainer.preparation.base import Encoder, Source
from unimrg_trainer.preparation.encode import EncodedMembers
from unimrg_trainer.preparation.registry import open_sources
from unimrg_trainer.preparation.write import Members, members_of, write_split
from unimrg_trainer.storage.base import ObjectStore

Progress = Callable[[int, int], None]
"""(samples written, samples in all)"""

ENCODED_SPLIT = "train"
"""The other splits are read once or twice, from pixels."""


@dataclass(frozen=True)
class Prepared:
    """A finished data set: `prefix` within the store holds its splits; `reused`: it was there already."""

    digest: str
    prefix: str
    reused: bool


def digest_of(sources: Mapping[str, Source], encoder: Encoder | None = None) -> str:
    """Return the digest of everything that the content depends on; where it lies is not part of it."""
    content: dict[str, Any] = {
        "format": shards.FORMAT,
        "sources": [[name, source.identity()] for name, source in sources.items()],
    }
    return sha256_of(content if encoder is None else {**content, "encoder": encoder.identity()})


def prepare(
    specs: Sequence[SourceSpec], base: Path, store: ObjectStore, progress: Progress, encoder: Encoder | None = None
) -> Prepared:
    """Write the data set of the job's sources into `store`, unless it is there.

    `base` is the folder that relative URIs are resolved against. `encoder` encodes what is trained on.
    Raises JobError for inputs that are missing or unreadable (before anything is written), UserError for stores. If it
    is interrupted, nothing is published, and the next call writes what is missing.
    """
    sources = open_sources(specs, base)
    digest = digest_of(sources, encoder)
    found = published(store, digest)
    if found is not None:
        _verify(store, found)
        return Prepared(digest, found.prefix, reused=True)
    for source in sources.values():
        source.check()
    prefix = folder_of(digest)
    total = sum(sum(source.splits.values()) for source in sources.values())
    done = 0
    manifests = {}
    progress(0, total)
    for split in SPLITS:
        count = sum(source.splits.get(split, 0) for source in sources.values())
        if count:
            members: Callable[[int], Members] = partial(_members, list(sources.values()), split)
            if encoder is not None and split == ENCODED_SPLIT:
                members = EncodedMembers(members, count, encoder)
            report = partial(_report, progress, done, total)
            manifests[split] = write_split(store, prefix, split, count, members, report)
            done += count
    publish(store, Publication(digest=digest, prefix=prefix, manifests=manifests))
    return Prepared(digest, prefix, reused=False)


def _members(sources: Sequence[Source], split: str, number: int) -> dict[str, bytes]:
    """Return the files of sample `number` of a split, in which the sources follow one another."""
    for source in sources:
        count = source.splits.get(split, 0)
        if number < count:
            return members_of(source.sample(split, number))
        number -= count
    raise IndexError(f"{split} has no sample {number} more")


def _report(progress: Progress, before: int, total: int, written: int) -> None:
    progress(before + written, total)


def _verify(store: ObjectStore, publication: Publication) -> None:
    """Check that a published data set's manifests are whole and that its shards have their length."""
    for split, digest in publication.manifests.items():
        manifest = shards.read_manifest(store, publication.prefix, split, digest)
        for shard in manifest.shards:
            key = join(publication.prefix, split, shard.name)
            size = store.size(key)
            if size != shard.length:
                state = "is missing" if size is None else f"has {size} instead of {shard.length} bytes"
                raise shards.CorruptDataError(
                    f"shard {store.uri}/{key} {state}",
                    remedy=f"delete {store.uri}/{folder_of(publication.digest)} so that it is prepared again",
                )
