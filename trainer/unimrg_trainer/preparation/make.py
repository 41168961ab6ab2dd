"""Makes the tar of a shard: items are read ahead, looked at, given maps and encodings a few at a time, and packed."""

from __future__ import annotations

import io
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from unimrg_api.errors import UserError
from unimrg_trainer.data.decode import encode_png, image_extension, take_in
from unimrg_trainer.data.members import encode_array
from unimrg_trainer.data.shards import TAR_END, TEXT_MEMBER, ItemIssue, issues_entry, tar_entry
from unimrg_trainer.preparation.base import BadItem, Encoder, SourceSample
from unimrg_trainer.preparation.items import Items, Part
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.write import sample_key
from unimrg_trainer.sample import Sample

logger = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 8
"""Samples whose maps and encodings are computed together."""
READ_AHEAD = 2 * SAMPLES_AT_ONCE
"""Items that are read while those before them are worked on: they and their maps are in memory, decoded."""
READERS = 4
"""Items that are read from their source at once."""

WITHOUT_MAPS = "preview"
"""The split that nothing is learnt from, and no map is made for."""
_OF_ONE_ITEM = (ValueError, RecursionError, MemoryError, cv2.error)
"""What content that nobody foresaw makes decoders and parsers raise; text that is no UTF-8 is a ValueError."""
_MAP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass
class Packed:
    """A sample on its way into a shard."""

    members: dict[str, bytes]
    """Extension → content of its files."""
    image: np.ndarray | None
    """uint8 [H, W, 3], as its file is decoded later; None for text alone."""
    maps: dict[str, np.ndarray]
    issues: list[str]


@dataclass(frozen=True)
class Maker:
    """Makes shards of items; `maps` makes what an image lacks, `encoder` encodes what the split `encoded` holds."""

    maps: Sequence[MapProducer] = ()
    encoder: Encoder | None = None
    encoded: str = "train"
    """The other splits are read once or twice, from pixels."""

    def make(self, items: Items, part: Part, done: Callable[[int], None] = lambda count: None) -> bytes:
        """Return the tar of a part; `done` is called with the number of items that are done. Raises as sources do."""
        tar, issues = io.BytesIO(), list[ItemIssue]()  # which gives its bytes away without a copy
        with ThreadPoolExecutor(READERS, thread_name_prefix="items") as pool:
            try:
                read = _read_ahead(pool, items, part.numbers)
                for first in range(0, len(part.numbers), SAMPLES_AT_ONCE):
                    numbers = part.numbers[first : first + SAMPLES_AT_ONCE]
                    found = self._members(items.split, zip(numbers, read, strict=False), issues)
                    for count, number in enumerate(numbers, first + 1):
                        for member, content in found.pop(number, {}).items():
                            tar.write(tar_entry(f"{sample_key(items.split, number)}.{member}", content))
                        done(count)
            finally:
                pool.shutdown(cancel_futures=True)
        tar.write(issues_entry(issues))
        tar.write(TAR_END)
        return tar.getvalue()

    def _members(
        self, split: str, batch: Iterable[tuple[int, SourceSample | BadItem]], issues: list[ItemIssue]
    ) -> dict[int, dict[str, bytes]]:
        """Return the files of each sample of a batch, of which no pixels stay in memory; extends `issues`."""
        found = dict(self._samples(batch, issues))
        pictured = [packed for packed in found.values() if packed.image is not None]
        if split != WITHOUT_MAPS:
            self._add_maps(pictured)
        if self.encoder is not None and split == self.encoded and pictured:
            _encode(self.encoder, pictured)
        return {number: packed.members for number, packed in found.items()}

    def _samples(
        self, batch: Iterable[tuple[int, SourceSample | BadItem]], issues: list[ItemIssue]
    ) -> Iterator[tuple[int, Packed]]:
        """Yield each sample of a batch; extends `issues`."""
        for number, item in batch:
            try:
                if isinstance(item, BadItem):
                    raise item
                packed = pack(item)
            except BadItem as error:
                issues.append(ItemIssue(number=number, name=_printable(error.name), reason=error.reason, left_out=True))
            else:
                name = _printable(item.name)
                issues += [
                    ItemIssue(number=number, name=name, reason=reason, left_out=False) for reason in packed.issues
                ]
                yield number, packed

    def _add_maps(self, pictured: Sequence[Packed]) -> None:
        for producer in self.maps:
            lacking = [packed for packed in pictured if producer.map not in packed.maps]
            if lacking:
                images = [packed.image for packed in lacking if packed.image is not None]
                for packed, pixels in zip(lacking, producer.produce(images), strict=True):
                    packed.maps[producer.map] = pixels
                    packed.members[f"{producer.map}.png"] = encode_png(pixels)


def pack(sample: SourceSample) -> Packed:
    """Return the files of a sample, texts first, with what they hold.

    Raises BadItem for a sample that cannot be used, UserError for a map with an impossible name.
    """
    try:
        return _packed(sample)
    except UserError:
        raise
    except _OF_ONE_ITEM as error:
        raise _bad(sample.name, error) from error


def _packed(sample: SourceSample) -> Packed:
    texts = {"caption": sample.caption, "questions": list(sample.questions)}
    if sample.name:
        texts["name"] = _printable(sample.name)
    members, issues, image = {TEXT_MEMBER: json.dumps(texts).encode()}, list(sample.issues), None
    if isinstance(sample.image, bytes):
        try:
            content, image, notes = take_in(sample.image)
        except ValueError as error:
            raise BadItem(sample.name, str(error)) from error
        members[image_extension(content)] = content
        issues += notes
    elif sample.image is not None:
        image = sample.image
        members["png"] = encode_png(image)
    for name, pixels in sample.maps.items():
        if not _MAP_NAME.fullmatch(name):
            raise UserError(f"a source gives a map named {name!r}", remedy="use letters, digits, - and _")
        members[f"{name}.png"] = encode_png(pixels)
    if image is not None and any(pixels.shape[:2] != image.shape[:2] for pixels in sample.maps.values()):
        issues.append("a map has another size than its image")
    return Packed(members, image, dict(sample.maps), issues)


def _read_ahead(pool: Executor, items: Items, numbers: Iterable[int]) -> Iterator[SourceSample | BadItem]:
    """Yield items in order, while no more than READ_AHEAD that follow are being read, or were."""
    waiting = deque[Future[SourceSample | BadItem]]()
    for number in numbers:
        waiting.append(pool.submit(_read, items, number))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(items: Items, number: int) -> SourceSample | BadItem:
    try:
        return items.sample(number)
    except UserError:
        raise
    except _OF_ONE_ITEM as error:
        return _bad(f"item {number}", error)


def _bad(name: str, error: Exception) -> BadItem:
    """Return what an error says of one item; details, which differ from item to item, stand in the log."""
    if isinstance(error, BadItem):
        return error
    logger.warning("%s cannot be used", _printable(name), exc_info=error)
    return BadItem(name, f"it cannot be read: {type(error).__name__}")


def _encode(encoder: Encoder, pictured: Sequence[Packed]) -> None:
    """Add what an encoder makes of samples with images."""
    samples = [Sample(str(number), packed.image, packed.maps) for number, packed in enumerate(pictured)]
    for packed, encoded in zip(pictured, encoder.encode(samples), strict=True):
        # behind the texts: a short read then serves whoever needs no pixels
        first = {TEXT_MEMBER: packed.members[TEXT_MEMBER]}
        arrays = {name: encode_array(array) for name, array in encoded.items()}
        packed.members = {**first, **arrays, **packed.members}


def _printable(name: str) -> str:
    """Return a name, which may be any bytes of a file system, as it can be shown anywhere."""
    return name if name.isprintable() else ascii(name)[1:-1]
