"""Turns a job's data source into shards: addressed by content, written once, published by one marker."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.digests import sha256_of
from unimrg_api.errors import UserError
from unimrg_api.job import ScenesSpec, SourceSpec
from unimrg_trainer import scenes
from unimrg_trainer.data import shards
from unimrg_trainer.data.claim import STALE_AFTER, ClaimWatch
from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.data.photographs import Photograph, check_photographs, find_photographs, read_photograph
from unimrg_trainer.data.publication import Publication, folder_of, publish, published
from unimrg_trainer.data.shards import ShardWriter, join
from unimrg_trainer.storage.base import ObjectStore, StorageError

HELD_OUT_START = 1 << 40
"""Index of the first held-out scene: no size of the training split ever reaches it."""

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""(samples written, samples in all)"""


@dataclass(frozen=True)
class Prepared:
    """A finished data set: `prefix` within the store holds its splits; `reused`: it was there already."""

    digest: str
    prefix: str
    reused: bool


def scenes_of(sources: Sequence[SourceSpec]) -> ScenesSpec:
    """Return the source of scenes. Raises UserError if there is none."""
    found = next((source.scenes for source in sources if source.scenes is not None), None)
    if found is None:
        raise UserError("spec.data.sources: there is no source of scenes", remedy="add one: scenes: {…}")
    return found


def folder_of_images(sources: Sequence[SourceSpec]) -> str | None:
    """Return the URI of the folder of images to show, None if there is none."""
    return next((source.images.uri for source in sources if source.images is not None), None)


def source_digest(sources: Sequence[SourceSpec], photographs: list[Photograph]) -> str:
    """Return the digest of everything that the content depends on; where it lies is not part of it."""
    wanted = scenes_of(sources)
    return sha256_of(
        {
            "schema": {"scenes": scenes.SCHEMA, "shards": shards.FORMAT},
            "scenes": {
                "train": wanted.train,
                "heldOut": wanted.held_out,
                "imageSize": wanted.image_size,
                "seed": wanted.seed,
            },
            "images": [[photograph.path.name, photograph.sha256] for photograph in photographs],
        }
    )


def prepare(
    sources: Sequence[SourceSpec],
    base: Path,
    store: ObjectStore,
    progress: Progress,
    *,
    stale_after: float = STALE_AFTER,
    poll_interval: float = 1.0,
) -> Prepared:
    """Write the data set of `sources` into `store`, unless it is there; wait if another job is writing it.

    `base` is the folder that relative URIs are resolved against; times are in seconds. Raises JobError for
    photographs that are missing or unreadable (before anything is written), UserError for stores. If it is
    interrupted, nothing is published and the next call starts afresh.
    """
    photographs = find_photographs(folder_of_images(sources), base)
    digest = source_digest(sources, photographs)
    folder = folder_of(digest)
    writer = uuid.uuid4().hex[:12]
    watch = ClaimWatch(store, folder, writer, stale_after=stale_after)
    waiting = False
    while True:
        found = published(store, digest)
        if found is not None:
            _verify(store, found)
            return Prepared(digest, found.prefix, reused=True)
        claim = watch.try_claim()
        if claim is not None:
            break
        if not waiting:
            _log.info("another job prepares the data set %s; waiting for it", folder)
            waiting = True
        time.sleep(poll_interval)
    with claim:
        found = published(store, digest)  # the previous holder may have finished in between
        if found is not None:
            return Prepared(digest, found.prefix, reused=True)
        prefix = join(folder, f"writer-{writer}")
        try:
            manifests = _write(scenes_of(sources), photographs, store, prefix, progress)
            winner = publish(store, Publication(digest=digest, prefix=prefix, manifests=manifests))
        except BaseException:
            _sweep(store, prefix + "/", keep=None)
            raise
        for leftovers in ("writer-", "CLAIM-"):
            _sweep(store, join(folder, leftovers), keep=winner.prefix + "/")
        return Prepared(digest, winner.prefix, reused=winner.prefix != prefix)


def _write(
    settings: ScenesSpec, photographs: list[Photograph], store: ObjectStore, prefix: str, progress: Progress
) -> dict[str, str]:
    """Write all splits; return split → sha256 of its manifest."""
    extensions = check_photographs(photographs)  # first: a bad file is reported before the long part
    total = settings.train + settings.held_out + len(photographs)
    done = 0
    progress(done, total)
    manifests = {}
    for split, start, count in (
        ("train", 0, settings.train),
        ("heldOut", HELD_OUT_START, settings.held_out),
    ):
        writer = ShardWriter(store, prefix, split)
        for index in range(start, start + count):
            scene = scenes.generate(settings.seed, index, settings.image_size)
            writer.add(f"{split}-{index - start:08d}", _scene_members(scene), len(scene.questions))
            done += 1
            progress(done, total)
        manifests[split] = writer.finish()
    if photographs:
        writer = ShardWriter(store, prefix, "preview")
        for index, (photograph, extension) in enumerate(zip(photographs, extensions, strict=True)):
            description = json.dumps({"name": photograph.path.name}).encode()
            members = {"json": description, extension: read_photograph(photograph)}
            writer.add(f"preview-{index:08d}", members, questions=0)
            done += 1
            progress(done, total)
        manifests["preview"] = writer.finish()
    return manifests


def _scene_members(scene: scenes.Scene) -> dict[str, bytes]:
    words = {
        "caption": scene.caption,
        "questions": [
            {"question": asked.question, "answer": asked.answer, "kind": asked.kind} for asked in scene.questions
        ],
    }
    return {  # what every objective needs comes first, so that one short read serves those without targets
        "json": json.dumps(words).encode(),
        "png": encode_png(scene.image),
        "depth.png": encode_png(scene.depth),
        "segmentation.png": encode_png(scene.segmentation),
    }


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


def _sweep(store: ObjectStore, prefix: str, *, keep: str | None) -> None:
    """Delete what writers left behind under `prefix`, but nothing under `keep`; failures only cost space."""
    try:
        for key, _ in store.list(prefix):
            if keep is None or not key.startswith(keep):
                store.delete(key)
    except StorageError as error:
        _log.warning("left-over files under %s/%s could not be deleted: %s", store.uri, prefix, error)
