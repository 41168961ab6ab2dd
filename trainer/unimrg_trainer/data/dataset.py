"""One split of a prepared data set: any sample by its number, from any thread, checked and decoded."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection
from contextlib import suppress
from itertools import accumulate
from typing import Any

from cachetools import LRUCache

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.data.members import decode_member, encoding_member
from unimrg_trainer.data.publication import find_publication
from unimrg_trainer.data.shards import (
    IMAGE_MEMBERS,
    TEXT_MEMBER,
    CorruptDataError,
    IndexEntry,
    Manifest,
    Shard,
    join,
    read_index,
    read_manifest,
    read_members,
)
from unimrg_trainer.sample import Sample
from unimrg_trainer.storage.base import NotFound, ObjectStore

CACHE_BYTES = 64 * 2**20


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
        self._manifest = manifest
        self._shards = manifest.shards
        self._sample_starts = [0, *accumulate(shard.samples for shard in manifest.shards)]
        self._question_starts = [0, *accumulate(shard.questions for shard in manifest.shards)]
        self._lock = threading.Lock()
        self._indices: dict[int, tuple[list[IndexEntry], list[int]]] = {}
        self._decoded: LRUCache[tuple[str, str], tuple[Any, int]] = LRUCache(CACHE_BYTES, lambda entry: entry[1])
        """Member of a sample → its content and size in memory (bytes)."""

    @staticmethod
    def splits(store: ObjectStore, digest: str | None = None) -> list[str]:
        """Return the names of the splits of the data set `digest`, or of the only one in `store`.

        Raises UserError as `open` does. Who may go without a split asks here, so that damage is not taken for absence.
        """
        return list(find_publication(store, digest).manifests)

    @classmethod
    def open(cls, store: ObjectStore, split: str, digest: str | None = None, *, square: bool = False) -> Dataset:
        """Open a split (`train`, `heldOut`, `preview`) of the data set `digest`, or of the only one in `store`.

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
        return cls(store, publication.prefix, manifest, publication.digest, square=square)

    def image_sample(
        self, number: int, /, maps: Collection[str] | None = None, image: bool = True, encodings: Collection[str] = ()
    ) -> Sample:
        """Return image sample `number` (0 … len(images) − 1): an image with its maps, without a question.

        `maps` names those that are wanted (None: all that are stored; one that is absent is left out); without `image`
        the pixels are neither read nor decoded. `encodings` names what is read encoded, each of which must be there.
        Raises CorruptDataError.
        """
        shard = self._shard_of(number, self._sample_starts)
        return self._read(shard, number - self._sample_starts[shard], None, maps, image, encodings)

    def question_sample(
        self, number: int, /, maps: Collection[str] | None = None, image: bool = True, encodings: Collection[str] = ()
    ) -> Sample:
        """Return question sample `number` (0 … len(questions) − 1): as an image sample, with one question."""
        shard = self._shard_of(number, self._question_starts)
        starts = self._index(shard)[1]
        within = number - self._question_starts[shard]
        sample = bisect_right(starts, within) - 1
        return self._read(shard, sample, within - starts[sample], maps, image, encodings)

    def questions_about(self, image: int, /) -> range:
        """Return the numbers of the question samples about image sample `image`."""
        shard = self._shard_of(image, self._sample_starts)
        samples, starts = self._index(shard)
        within = image - self._sample_starts[shard]
        first = self._question_starts[shard] + starts[within]
        return range(first, first + samples[within].questions)

    def _shard_of(self, number: int, starts: list[int]) -> int:
        if not 0 <= number < starts[-1]:
            raise IndexError(f"sample {number} of {starts[-1]} in split {self.split!r}")
        return bisect_right(starts, number) - 1

    def _index(self, shard: int) -> tuple[list[IndexEntry], list[int]]:
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

    def _read(
        self,
        shard: int,
        within: int,
        question: int | None,
        maps: Collection[str] | None,
        image: bool,
        encodings: Collection[str],
    ) -> Sample:
        entry = self._index(shard)[0][within]
        wanted = {TEXT_MEMBER}
        pictures = next((name for name in IMAGE_MEMBERS if name in entry.members), None) if image else None
        stored = {member.removesuffix(".png"): member for member in entry.members if member.endswith(".png")}
        chosen = {name: member for name, member in stored.items() if maps is None or name in maps}
        if entry.image is None:
            encodings = ()  # text alone
        encoded = {name: encoding_member(name, square=self._square) for name in encodings}
        for member in encoded.values():
            if member not in entry.members:
                raise CorruptDataError(
                    f"sample {entry.key} in {self._shards[shard].name} has no {member}", remedy="prepare the data again"
                )
        wanted |= {*chosen.values(), *encoded.values(), *([pictures] if pictures is not None else [])}
        contents = self._contents(self._shards[shard], entry, wanted)
        texts = contents[TEXT_MEMBER]
        asked = {} if question is None else texts["questions"][question]
        sample = Sample(
            key=entry.key,
            image=None if pictures is None else contents[pictures],
            maps={name: contents[member] for name, member in chosen.items()},
            encodings={name: contents[member] for name, member in encoded.items()},
            caption=texts.get("caption"),
            question=asked.get("question"),
            answer=asked.get("answer"),
            attributes={name: value for name, value in asked.items() if name not in ("question", "answer")},
        )
        return sample.squared() if self._square else sample

    def _contents(self, shard: Shard, entry: IndexEntry, members: Collection[str]) -> dict[str, Any]:
        """Return the decoded members of a sample, from the cache or from the store."""
        with self._lock:
            known = {member: self._decoded.get((entry.key, member)) for member in members}
        missing = [member for member, content in known.items() if content is None]
        raw = read_members(self._store, self._prefix, self.split, shard, entry, missing) if missing else {}
        for member in missing:
            known[member] = decoded = decode_member(member, raw[member], f"{entry.key} in {shard.name}")
            with self._lock, suppress(ValueError):  # larger than the whole cache
                self._decoded[entry.key, member] = decoded
        return {member: content[0] for member, content in known.items() if content is not None}
