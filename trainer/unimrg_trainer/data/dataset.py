"""One split of a prepared data set: any record by its number, from any thread, checked and decoded."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.decode import decode_image, decode_map
from unimrg_trainer.data.publication import find_publication
from unimrg_trainer.data.shards import (
    CorruptDataError,
    Manifest,
    Sample,
    Shard,
    join,
    read_index,
    read_manifest,
    read_members,
)
from unimrg_trainer.storage.base import NotFound, ObjectStore

PIXEL_FIELDS = frozenset({"image", "depth", "segmentation"})
"""Fields of a record that cost a read and a decode; a caller may ask for fewer."""

CACHE_BYTES = 64 * 2**20

_EXTENSIONS = {"image": ("png", "jpg"), "depth": ("depth.png",), "segmentation": ("seg.png",)}


class Dataset:
    """Records of one split. Objects are safe to share between threads.

    `images` and `questions` are the record numbers of the two sources (`len` counts them); `digest` is that
    of the whole data set, equal for all its splits.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, manifest: Manifest, digest: str, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.split = manifest.split
        self.digest = digest
        self.images = range(manifest.samples)
        self.questions = range(manifest.questions)
        self._store = store
        self._prefix = prefix
        self._manifest = manifest
        self._shards = manifest.shards
        self._sample_starts = [0, *accumulate(shard.samples for shard in manifest.shards)]
        self._question_starts = [0, *accumulate(shard.questions for shard in manifest.shards)]
        self._lock = threading.Lock()
        self._indices: dict[int, tuple[list[Sample], list[int]]] = {}
        self._cache = _Cache(cache_bytes)

    @staticmethod
    def splits(store: ObjectStore, digest: str | None = None) -> list[str]:
        """Return the names of the splits of the data set `digest`, or of the only one in `store`.

        Raises UserError as `open` does. Who may go without a split asks here, so that damage is not taken for
        absence.
        """
        return list(find_publication(store, digest).manifests)

    @classmethod
    def open(cls, store: ObjectStore, split: str, digest: str | None = None) -> Dataset:
        """Open a split (`train`, `heldOut`, `preview`) of the data set `digest`, or of the only one in
        `store`.

        Raises UserError: INPUT_MISSING if there is no such data set or split, DATA_CORRUPT if it is damaged.
        """
        publication = find_publication(store, digest)
        if split not in publication.manifests:
            names = ", ".join(publication.manifests)
            raise UserError(
                f"the data set at {join(store.uri, publication.prefix)} has no split {split!r}, only {names}",
                remedy="choose one of these, or prepare the data with that split",
                exit_code=ExitCode.INPUT_MISSING,
            )
        try:
            manifest = read_manifest(store, publication.prefix, split, publication.manifests[split])
        except NotFound as error:
            raise CorruptDataError(
                f"the manifest of split {split!r} is missing at {join(store.uri, publication.prefix)}",
                remedy="delete this data set and prepare it again",
            ) from error
        return cls(store, publication.prefix, manifest, publication.digest)

    def read_image_record(self, number: int, fields: Collection[str] = PIXEL_FIELDS) -> dict[str, Any]:
        """Return image record `number` (0 … len(images) − 1): the image and its maps, without a question.

        Keys: key, caption (str | None), image uint8 [H, W, 3], depth and segmentation uint8 [H, W] | None
        (also if not among `fields`), question, answer, family (None). Arrays are read-only and may be
        shared.
        """
        shard = self._shard_of(number, self._sample_starts)
        return self._read(shard, number - self._sample_starts[shard], None, fields)

    def read_question_record(self, number: int, fields: Collection[str] = PIXEL_FIELDS) -> dict[str, Any]:
        """Return question record `number` (0 … len(questions) − 1): as an image record, with one question."""
        shard = self._shard_of(number, self._question_starts)
        starts = self._index(shard)[1]
        within = number - self._question_starts[shard]
        sample = bisect_right(starts, within) - 1
        return self._read(shard, sample, within - starts[sample], fields)

    def _shard_of(self, number: int, starts: list[int]) -> int:
        if not 0 <= number < starts[-1]:
            raise IndexError(f"record {number} of {starts[-1]} in split {self.split!r}")
        return bisect_right(starts, number) - 1

    def _index(self, shard: int) -> tuple[list[Sample], list[int]]:
        """Samples of a shard, and the number of its first question for each; read when first needed."""
        with self._lock:
            known = self._indices.get(shard)
        if known is None:
            samples = read_index(self._store, self._prefix, self.split, self._shards[shard])
            starts = [0, *accumulate(sample.questions for sample in samples)][:-1]
            known = (samples, starts)
            with self._lock:
                self._indices[shard] = known
        return known

    def _read(self, shard: int, sample: int, question: int | None, fields: Collection[str]) -> dict[str, Any]:
        described = self._index(shard)[0][sample]
        contents = self._contents(self._shards[shard], described, fields)
        words = contents["words"]
        asked = {"question": None, "answer": None, "family": None}
        if question is not None:
            asked = words["questions"][question]
        return {
            "key": described.key,
            "image": contents.get("image"),
            "depth": contents.get("depth"),
            "segmentation": contents.get("segmentation"),
            "caption": words.get("caption"),
            **asked,
        }

    def _contents(self, shard: Shard, sample: Sample, fields: Collection[str]) -> dict[str, Any]:
        """Return words and wanted pixel fields of a sample, from the cache or from the store."""
        extensions = {"words": "json"} | {
            field: extension
            for field, choices in _EXTENSIONS.items()
            for extension in choices
            if field in fields and extension in sample.members
        }
        found = {field: self._cache.get((sample.key, field)) for field in extensions}
        missing = [field for field, content in found.items() if content is None]
        if missing:
            raw = read_members(
                self._store, self._prefix, self.split, shard, sample, [extensions[field] for field in missing]
            )
            for field in missing:
                content, size = _decode(field, raw[extensions[field]], f"{sample.key} in {shard.name}")
                found[field] = content
                self._cache.put((sample.key, field), content, size)
        return found


class _Cache:
    """The most recently used contents, up to a number of bytes; safe between threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._entries: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str]) -> Any:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: tuple[str, str], content: Any, size: int) -> None:
        with self._lock:
            if key in self._entries or size > self._capacity:
                return
            self._entries[key] = (content, size)
            self._held += size
            while self._held > self._capacity:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._held -= dropped


def _decode(field: str, content: bytes, where: str) -> tuple[Any, int]:
    """Return what a member holds and its size in memory (bytes)."""
    try:
        if field == "words":
            return json.loads(content), 4 * len(content)
        pixels: np.ndarray = decode_image(content) if field == "image" else decode_map(content)
    except ValueError as error:
        raise CorruptDataError(
            f"the {field} of sample {where} cannot be decoded: {error}", remedy="prepare the data again"
        ) from error
    pixels.flags.writeable = False  # shared by everyone who reads this sample
    return pixels, pixels.nbytes
