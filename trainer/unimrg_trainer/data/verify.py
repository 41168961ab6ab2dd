"""Compares every byte of a prepared data set with the digests that were written with it; needs no numpy.

The marker names the manifests, a manifest its shards and their indices, an index the members of every sample
(docs/method/data.md). Damage is reported by sample and member where the index still says where these lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from unimrg_api.errors import UserError
from unimrg_trainer.data.publication import Publication
from unimrg_trainer.data.shards import (
    CorruptDataError,
    IndexEntry,
    Manifest,
    Shard,
    extent_of,
    join,
    read_index,
    read_manifest,
    read_members,
)
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError

PIECE_BYTES = 64 * 2**20
"""A shard is read in pieces of this size."""


class Finding(BaseModel):
    """Something that is not what was written."""

    model_config = ConfigDict(frozen=True)

    split: str
    object: str
    """URI of the damaged object."""
    sample: str | None = None
    """Key of the damaged sample; None where the object as a whole is meant."""
    problem: str
    """A sentence that names all of these."""


def manifest_of(store: ObjectStore, publication: Publication, split: str) -> Manifest:
    """Read the manifest of a split. Raises CorruptDataError where it is damaged or missing."""
    try:
        return read_manifest(store, publication.prefix, split, publication.manifests[split])
    except NotFound as error:
        raise CorruptDataError(
            f"{store.uri}/{join(publication.prefix, split)}/manifest.json is missing",
            remedy="delete this data set and prepare it again",
        ) from error


def verify_split(
    store: ObjectStore, prefix: str, manifest: Manifest, progress: Callable[[int], None] = lambda count: None
) -> Iterator[Finding]:
    """Read every byte of a split's shards and indices; yield what is damaged. Changes nothing.

    Calls `progress` with the bytes of shards read since. What is whole when it is read again is not reported. Raises
    StorageError if the store cannot be read now.
    """
    for shard in manifest.shards:
        where = f"{store.uri}/{join(prefix, manifest.split, shard.name)}"
        index: Sequence[IndexEntry] = ()
        try:
            index = read_index(store, prefix, manifest.split, shard)
        except StorageError:
            raise
        except UserError as error:
            yield Finding(split=manifest.split, object=f"{where}.idx", problem=error.message)
        found = _verify_shard(store, prefix, manifest.split, shard, index, progress)
        for sample, problem in found:
            yield Finding(split=manifest.split, object=where, sample=sample, problem=problem)


def _verify_shard(
    store: ObjectStore,
    prefix: str,
    split: str,
    shard: Shard,
    index: Sequence[IndexEntry],
    progress: Callable[[int], None],
) -> Iterator[tuple[str | None, str]]:
    """Yield (key of a damaged sample or None, problem) for one shard."""
    key = join(prefix, split, shard.name)
    where, length = f"{store.uri}/{key}", store.size(key)
    if length is None:
        yield None, f"{where} is named by the manifest and does not exist"
        return
    if length != shard.length:
        yield None, f"{where} has {length} instead of {shard.length} bytes"
    elif any(_digest(store, key, length, report) == shard.sha256 for report in (progress, lambda count: None)):
        return
    whole = True
    for entry in index:
        try:
            read_members(entry, list(entry.members), extent_of(store, prefix, split, shard, entry, list(entry.members)))
        except CorruptDataError as error:
            whole = False
            yield entry.key, error.message
    if whole and length == shard.length:
        yield None, f"{where} does not match its sha256{', though all members of its samples do' if index else ''}"


def _digest(store: ObjectStore, key: str, length: int, progress: Callable[[int], None]) -> str:
    """Return the sha256 of an object, read in pieces."""
    digest = hashlib.sha256()
    for offset in range(0, length, PIECE_BYTES):
        piece = store.get(key, offset, PIECE_BYTES)
        digest.update(piece)
        progress(len(piece))
    return digest.hexdigest()
