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
from unimrg_trainer.data.shards import OddItem, join
from unimrg_trainer.preparation.base import Encoder, Source
from unimrg_trainer.preparation.items import Items, Part, splits_of
from unimrg_trainer.preparation.make import Maker
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.registry import check_splits, open_sources
from unimrg_trainer.preparation.write import oddities, put_manifest, put_shard, read_indices, stored_parts
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
        _verify(store, found)
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
    bad: dict[Part, list[OddItem]] = field(default_factory=dict)
    """Items left out, of the parts whose index was seen."""

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
            self._refuse_too_many({part: index})
            if share.workers > 1 and share.worker == 0:
                self._look()

    def wait(self) -> None:
        """Wait for the shards of the other workers, whose failures their launcher or the operator sees."""
        while len(self.done) < len(self.parts):
            time.sleep(WAIT_SECONDS)
            self._look()

    def finish(self, provenance: Mapping[str, Any]) -> dict[str, str]:
        """Store the manifest of every split; return their sha256."""
        indices = read_indices(self.store, self.prefix, list(self.parts))
        self._refuse_too_many({part: index for part, (index, _) in indices.items()})
        return {
            items.split: put_manifest(
                self.store, self.prefix, items.split, {part: indices[part] for part in items.parts()}, provenance
            )
            for items in self.splits
        }

    def _look(self) -> None:
        """See what the other workers have done."""
        before = len(self.done)
        self.done |= stored_parts(self.store, self.prefix, self.parts)
        if len(self.done) > before:
            self._report()

    def _report(self, extra: int = 0) -> None:
        total = sum(len(items) for items in self.splits)
        self.progress(sum(len(part.numbers) for part in self.done) + extra, total)

    def _refuse_too_many(self, indices: Mapping[Part, shards.ShardIndex]) -> None:
        """Raise UserError (65) once more items are left out than the job allows."""
        self.bad |= {part: [item for item in index.odd if item.left_out] for part, index in indices.items()}
        bad = [item for items in self.bad.values() for item in items]
        total = sum(len(items) for items in self.splits)
        if len(bad) > self.max_bad_fraction * total:
            reasons = ", ".join(f"{reason} ({found.count})" for reason, found in oddities(bad).items())
            names = ", ".join(item.name for item in bad[:SHOWN])
            raise UserError(
                f"{len(bad)} of {total} items cannot be used, which is more than spec.data.preparation.maxBadFraction "
                f"({self.max_bad_fraction}) allows: {reasons}; the first are {names}",
                remedy="mend the source, or allow more",
                exit_code=ExitCode.DATA_CORRUPT,
            )


def _verify(store: ObjectStore, publication: Publication) -> None:
    """Check that a published data set's manifests are whole and that its shards have their length."""
    sizes = dict(store.list(publication.prefix + "/"))
    for split, digest in publication.manifests.items():
        manifest = shards.read_manifest(store, publication.prefix, split, digest)
        for shard in manifest.shards:
            key = join(publication.prefix, split, shard.name)
            size = sizes.get(key)
            if size != shard.length:
                state = "is missing" if size is None else f"has {size} instead of {shard.length} bytes"
                raise shards.CorruptDataError(
                    f"shard {store.uri}/{key} {state}",
                    remedy=f"delete {store.uri}/{folder_of(publication.digest)} so that it is prepared again",
                )
