"""One split of a prepared data set: any sample by its number, from any thread, checked and decoded."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import accumulate
from typing import Any, Literal

from cachetools import LRUCache

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.members import decode_member, encoding_member
from unimrg_trainer.data.order import Order, StoredOrder, WindowedOrder
from unimrg_trainer.data.publication import Publication, find_publication
from unimrg_trainer.data.shards import (
    IMAGE_MEMBERS,
    TEXT_MEMBER,
    CorruptDataError,
    Extent,
    IndexEntry,
    IndexTable,
    Manifest,
    extent_of,
    join,
    read_extent,
    read_index,
    read_manifest,
    read_members,
)
from unimrg_trainer.sample import ALL, Sample, Wanted
from unimrg_trainer.storage.base import NotFound, ObjectStore

CACHE_BYTES = 64 * 2**20
INDICES = 128
"""Indices that are held; of 2048 samples each they take about 40 MiB."""

Source = Literal["images", "questions"]


class Dataset:
    """Samples of one split. Objects are safe to share between threads.

    `images` and `questions` are the sample numbers of the two orders (`len` counts them); `digest` is that
    of the whole data set, equal for all its splits. With `square` all samples are padded to squares.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, manifest: Manifest, digest: str, *, square: bool = False
    ) -> None:
        self._square = square
        self.split = manifest.split
        self.digest = digest
        self.images = range(manifest.images)
        self.questions = range(manifest.questions)
        self._store = store
        self._prefix = prefix
        self._shards = manifest.shards
        self._manifest = manifest
        ends = accumulate(shard.samples for shard in manifest.shards)
        images = [min(end, len(self.images)) for end in ends]  # those with an image come first
        self._sizes: dict[Source, list[int]] = {
            "images": [end - start for start, end in zip([0, *images], images, strict=False)],
            "questions": [shard.questions for shard in manifest.shards],
        }
        self._starts = {source: [0, *accumulate(sizes)] for source, sizes in self._sizes.items()}
        self._lock = threading.Lock()
        self._indices: LRUCache[int, IndexTable] = LRUCache(INDICES)
        self._decoded: LRUCache[tuple[str, str], tuple[Any, int]] = LRUCache(CACHE_BYTES, lambda entry: entry[1])
        """Member of a sample → its content and size in memory (bytes)."""

    @classmethod
    def open(cls, store: ObjectStore, split: str, digest: str | None = None, *, square: bool = False) -> Dataset:
        """Open a split (`train`, `heldOut`, `preview`) of the data set `digest`, or of the only one in `store`.

        Raises UserError: INPUT_MISSING if there is no such data set or split, DATA_CORRUPT if it is damaged.
        """
        return cls.of(store, find_publication(store, digest), split, square=square)

    @classmethod
    def of(cls, store: ObjectStore, publication: Publication, split: str, *, square: bool = False) -> Dataset:
        """Open a split of a data set whose marker was read. Raises UserError as `open` does."""
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
        return cls(store, publication.prefix, manifest, publication.digest, square=square)

    def require(self, maps: Collection[str] = (), *, questions: bool = False) -> None:
        """Raise UserError (65) unless every image has these maps and, with `questions`, a question about it."""
        where = f"images of split {self.split!r} at {join(self._store.uri, self._prefix)}"
        for name in maps:
            lacking = len(self.images) - self._manifest.maps.get(name, 0)
            if lacking:
                raise UserError(
                    f"{lacking} of {len(self.images)} {where} have no map {name!r}, which an objective learns from",
                    remedy="let spec.data.maps make it, or leave the objective out",
                    exit_code=ExitCode.DATA_CORRUPT,
                )
        if questions and self.images and not self._manifest.least_questions:
            raise UserError(
                f"some {where} have no question, and spec.training.batch.imageSharing is All",
                remedy="use imageSharing: Generation, or data with a question about every image",
                exit_code=ExitCode.DATA_CORRUPT,
            )

    def order(self, source: Source, seed: int | None) -> Order:
        """Return the order in which training with `seed` reads, or, without one, evaluation."""
        if seed is None:
            return StoredOrder(len(self.images if source == "images" else self.questions))
        return WindowedOrder(seed, source, self._sizes[source])

    def image_sample(
        self, number: int, /, wanted: Wanted = ALL, read: Callable[[Extent], bytes] | None = None
    ) -> Sample:
        """Return image sample `number` (0 … len(images) − 1): an image with its maps, without a question.

        `read` brings the sample's `extent`; without it one that was read lately costs nothing.
        Raises DamagedSample; CorruptDataError for what concerns more than this sample.
        """
        return self._read(*self._place("images", number), wanted, read)

    def question_sample(
        self, number: int, /, wanted: Wanted = ALL, read: Callable[[Extent], bytes] | None = None
    ) -> Sample:
        """Return question sample `number` (0 … len(questions) − 1): as an image sample, with one question."""
        return self._read(*self._place("questions", number), wanted, read)

    def extent(self, source: Source, number: int, /, wanted: Wanted = ALL) -> Extent:
        """Return what has to be read for a sample."""
        shard, sample, _ = self._place(source, number)
        entry = self._index(shard)[sample]
        picture, chosen, encoded = self._members(shard, entry, wanted)
        members = {TEXT_MEMBER, *picture, *chosen.values(), *encoded.values()}
        return extent_of(self._store, self._prefix, self.split, self._shards[shard], entry, members)

    def questions_about(self, image: int, /) -> range:
        """Return the numbers of the question samples about image sample `image`."""
        shard, sample, _ = self._place("images", image)
        first, own = self._starts["questions"][shard], self._index(shard).questions_of(sample)
        return range(first + own.start, first + own.stop)

    def _place(self, source: Source, number: int) -> tuple[int, int, int | None]:
        """Return the shard of a sample, its number there, and the number of the question about it, if it has one."""
        starts = self._starts[source]
        if not 0 <= number < starts[-1]:
            raise IndexError(f"sample {number} of {starts[-1]} in split {self.split!r}")
        shard = bisect_right(starts, number) - 1
        within = number - starts[shard]
        if source == "images":
            return shard, within, None
        sample = self._index(shard).sample_of(within)
        return shard, sample, within - self._index(shard).questions_of(sample).start

    def _index(self, shard: int) -> IndexTable:
        """The samples of a shard; read when first needed."""
        with self._lock:
            known = self._indices.get(shard)
        if known is None:
            known = read_index(self._store, self._prefix, self.split, self._shards[shard])
            with self._lock:
                self._indices[shard] = known
        return known

    def _members(
        self, shard: int, entry: IndexEntry, wanted: Wanted
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        """Return the member of the image, if it is wanted and there, and those of the maps and encodings by name."""
        picture = [name for name in IMAGE_MEMBERS if name in entry.members][:1] if wanted.image else []
        stored = {member.removesuffix(".png"): member for member in entry.members if member.endswith(".png")}
        chosen = {name: member for name, member in stored.items() if wanted.maps is None or name in wanted.maps}
        encodings = () if entry.image is None else wanted.encodings  # none of text alone
        encoded = {name: encoding_member(name, square=self._square) for name in encodings}
        for member in encoded.values():
            if member not in entry.members:
                raise CorruptDataError(
                    f"sample {entry.key} in {self._shards[shard].name} has no {member}", remedy="prepare the data again"
                )
        return picture, chosen, encoded

    def _read(
        self, shard: int, sample: int, question: int | None, wanted: Wanted, read: Callable[[Extent], bytes] | None
    ) -> Sample:
        entry = self._index(shard)[sample]
        picture, chosen, encoded = self._members(shard, entry, wanted)
        contents = self._contents(shard, entry, {TEXT_MEMBER, *picture, *chosen.values(), *encoded.values()}, read)
        texts = contents[TEXT_MEMBER]
        asked = {} if question is None else texts["questions"][question]
        found = Sample(
            key=entry.key,
            image=contents[picture[0]] if picture else None,
            maps={name: contents[member] for name, member in chosen.items()},
            encodings={name: contents[member] for name, member in encoded.items()},
            caption=texts.get("caption"),
            question=asked.get("question"),
            answer=asked.get("answer"),
            attributes={name: value for name, value in asked.items() if name not in ("question", "answer")},
        )
        return found.squared() if self._square else found

    def _contents(
        self, shard: int, entry: IndexEntry, members: Collection[str], read: Callable[[Extent], bytes] | None
    ) -> dict[str, Any]:
        """Return the decoded members of a sample, from the cache or from the store.

        What is read ahead comes once in an epoch, and is not kept.
        """
        with self._lock:
            known = (
                {}
                if read
                else {name: self._decoded[entry.key, name] for name in members if (entry.key, name) in self._decoded}
            )
        missing = [member for member in members if member not in known]
        if missing:
            extent = extent_of(self._store, self._prefix, self.split, self._shards[shard], entry, missing)
            raw = read_members(entry, missing, extent, read or read_extent)
            for member in missing:
                known[member] = decode_member(member, raw[member], f"{entry.key} in {self._shards[shard].name}")
                if read is None:
                    with self._lock, suppress(ValueError):  # larger than the whole cache
                        self._decoded[entry.key, member] = known[member]
        return {member: content for member, (content, _) in known.items()}
