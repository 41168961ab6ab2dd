"""The prepare stage: turns a job's sources into a data set under its digest, published by one marker.

Any number of workers share the shards of one data set: processes of this machine, pods of a cluster, two jobs that
prepare the same data at once. Whoever is started again makes what is missing (docs/method/data.md).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

from unimrg_api.digests import sha256_of
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data import shards
from unimrg_trainer.data.publication import Publication, folder_of, publish, published
from unimrg_trainer.data.shards import IssueCount, join
from unimrg_trainer.preparation.base import Encoder, Source
from unimrg_trainer.preparation.items import Items, Part, splits_of
from unimrg_trainer.preparation.make import Maker
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.registry import check_splits, open_sources
from unimrg_trainer.preparation.write import added, issue_counts, put_manifest, put_shard, read_indices, stored_parts
from unimrg_trainer.storage.base import ObjectStore

Progress = Callable[[int, int], None]
"""(items done by all workers, items in all)"""

WAIT_SECONDS = 1.0
"""Between two looks of the first worker for what the others have stored."""
SHOWN = 10
"""Bad items that a message names."""
_LIBRARIES = ("unimrg", "numpy", "pillow", "opencv-python-headless", "simplejpeg")
_OF_MODELS = ("torch", "transformers")
"""Distributions on which the bytes of a data set may depend."""


@dataclass(frozen=True)
class Prepared:
    """A finished data set: `prefix` within the store holds its splits; `reused`: it was there already."""

    digest: str
    prefix: str
    reused: bool


@dataclass(frozen=True)
class Share:
    """Which shards a worker makes: every `workers`-th, from `worker` on. The first worker publishes."""

    worker: int = 0
    workers: int = 1


def digest_of(sources: Mapping[str, Source], encoder: Encoder | None = None, maps: Sequence[MapProducer] = ()) -> str:
    """Return the digest of everything that the content depends on; where it lies is not part of it."""
    content: dict[str, Any] = {
        "format": shards.FORMAT,
        "sources": [[name, source.identity()] for name, source in sources.items()],
        "maps": [[producer.map, producer.identity()] for producer in maps],
        "encoder": None if encoder is None else encoder.identity(),
    }
    return sha256_of(content)


def prepare(
    specs: Sequence[SourceSpec],
    base: Path,
    store: ObjectStore,
    progress: Progress,
    encoder: Encoder | None = None,
    maps: Sequence[MapProducer] = (),
    *,
    storage: StorageSpec | None = None,
    cache: Path = PodEnvironment.cache,
    max_bad_fraction: str = "0.01",
    share: Share = Share(),
) -> Prepared:
    """Make this worker's share of the data set of the job's sources in `store`; the first worker waits for the others
    and publishes it. A data set that is published is only looked at.

    `base` is the folder that relative URIs are resolved against; for `storage` and `cache` see `SourcePlace`. `encoder`
    encodes what is trained on, `maps` make what sources do not bring. Raises JobError for inputs that are missing,
    UserError for stores, and (65) where more than `max_bad_fraction` of all items cannot be used. If it is interrupted,
    nothing is published, and the next call makes what is missing.
    """
    sources = open_sources(specs, base, storage, cache)
    digest = digest_of(sources, encoder, maps)
    found = published(store, digest)
    if found is not None:
        _verify(store, found, Decimal(max_bad_fraction))
        return Prepared(digest, found.prefix, reused=True)
    check_splits(sources)
    work = _Work(store, folder_of(digest), splits_of(list(sources.values())), progress, Decimal(max_bad_fraction))
    work.make(Maker(maps, encoder), share)
    if share.worker == 0:
        work.wait()
        manifests = work.finish(provenance(specs, sources, encoder, maps))
        publish(store, Publication(digest=digest, prefix=work.prefix, manifests=manifests))
    return Prepared(digest, work.prefix, reused=False)


def provenance(
    specs: Sequence[SourceSpec], sources: Mapping[str, Source], encoder: Encoder | None, maps: Sequence[MapProducer]
) -> dict[str, Any]:
    """Return what a manifest says of where its samples are from: sources as the job names them, with their licences,
    and by their content; what made maps and encodings, from which weights; versions of the libraries at work."""
    used = [*_LIBRARIES, *(_OF_MODELS if maps or encoder is not None else ())]
    return {
        "sources": [dict([spec.selected()]) for spec in specs],
        "content": {name: source.identity() for name, source in sources.items()},
        "maps": {producer.map: producer.identity() for producer in maps},
        "encoder": None if encoder is None else encoder.identity(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in used}},
    }


@dataclass
class _Work:
    """The shards of one data set: what there is to do, and what is done."""

    store: ObjectStore
    prefix: str
    splits: Sequence[Items]
    progress: Progress
    max_bad_fraction: Decimal
    parts: dict[Part, Items] = field(init=False)
    done: set[Part] = field(init=False)
    bad: dict[str, IssueCount] = field(default_factory=dict)
    """Items left out of the shards of this worker, by reason."""

    def __post_init__(self) -> None:
        self.parts = {part: items for items in self.splits for part in items.parts()}
        self.done = stored_parts(self.store, self.prefix, self.parts)
        self._report()

    def make(self, maker: Maker, share: Share) -> None:
        """Make the shards of a share that are not there."""
        for number, (part, items) in enumerate(self.parts.items()):
            if number % share.workers != share.worker or part in self.done:
                continue
            tar = None
            if self.store.size(join(self.prefix, part.split, part.name)) is None:  # no other job has made it since
                tar = maker.make(items, part, self._report)
            index = put_shard(self.store, self.prefix, part, tar)
            self.done.add(part)
            self.bad = added([self.bad, issue_counts(item for item in index.issues if item.left_out)])
            refuse_too_many(self.bad, self.total, self.max_bad_fraction)
            if share.workers > 1 and share.worker == 0:
                self._look()

    def wait(self) -> None:
        """Wait for the shards of the other workers, whose failures their launcher or the operator sees."""
        while len(self.done) < len(self.parts):
            time.sleep(WAIT_SECONDS)
            self._look()

    def finish(self, provenance: Mapping[str, Any]) -> dict[str, str]:
        """Store the manifest of every split; return their sha256."""
        found = read_indices(self.store, self.prefix, list(self.parts))
        refuse_too_many(added(one.issues for one in found.values()), self.total, self.max_bad_fraction)
        return {
            items.split: put_manifest(self.store, self.prefix, items.split, found, provenance) for items in self.splits
        }

    def _look(self) -> None:
        """See what the other workers have done; who waits for them reports too, or it would seem to have stalled."""
        self.done |= stored_parts(self.store, self.prefix, self.parts)
        self._report()

    @property
    def total(self) -> int:
        """Items of all splits."""
        return sum(len(items) for items in self.splits)

    def _report(self, extra: int = 0) -> None:
        self.progress(sum(len(part.numbers) for part in self.done) + extra, self.total)


def refuse_too_many(issues: Mapping[str, IssueCount], total: int, max_bad_fraction: Decimal) -> None:
    """Raise UserError (65) once more of `total` items are left out than the job allows; not all may be seen yet."""
    left_out = {reason: one for reason, one in issues.items() if one.left_out}
    count = sum(one.left_out for one in left_out.values())
    if count > max_bad_fraction * total:
        reasons = ", ".join(f"{reason} ({one.left_out})" for reason, one in left_out.items())
        names = ", ".join([name for one in left_out.values() for name in one.names][:SHOWN])
        raise UserError(
            f"at least {count} of {total} items cannot be used, more than spec.data.preparation.maxBadFraction "
            f"({max_bad_fraction}) allows: {reasons}; the first are {names}",
            remedy="mend the source, or allow more (`unimrg data pack` has --max-bad-fraction)",
            exit_code=ExitCode.DATA_CORRUPT,
        )


def _verify(store: ObjectStore, publication: Publication, max_bad_fraction: Decimal) -> None:
    """Check that a published data set's manifests are whole, that its shards have their length, and that no more items
    were left out than this job allows: another one may have prepared it."""
    sizes = dict(store.list(publication.prefix + "/"))
    names = publication.manifests
    manifests = [shards.read_manifest(store, publication.prefix, split, names[split]) for split in names]
    issues = added(manifest.issues for manifest in manifests)
    total = sum(manifest.samples for manifest in manifests) + sum(one.left_out for one in issues.values())
    refuse_too_many(issues, total, max_bad_fraction)
    for manifest in manifests:
        for shard in manifest.shards:
            key = join(publication.prefix, manifest.split, shard.name)
            size = sizes.get(key)
            if size != shard.length:
                state = "is missing" if size is None else f"has {size} instead of {shard.length} bytes"
                raise shards.CorruptDataError(
                    f"shard {store.uri}/{key} {state}",
                    remedy=f"delete {store.uri}/{folder_of(publication.digest)} so that it is prepared again",
                )
