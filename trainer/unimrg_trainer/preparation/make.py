"""Makes the tar of a shard: items are read ahead, looked at, given maps and encodings a few at a time, and packed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from unimrg_api.errors import UserError
from unimrg_trainer.data.decode import encode_png, image_extension, take_in
from unimrg_trainer.data.members import encode_array
from unimrg_trainer.data.shards import TAR_END, TEXT_MEMBER, OddItem, odd_entry, tar_entry
from unimrg_trainer.preparation.base import BadItem, Encoder, SourceSample
from unimrg_trainer.preparation.items import Items, Part
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.write import sample_key
from unimrg_trainer.sample import Sample

SAMPLES_AT_ONCE = 8
"""Samples whose maps and encodings are computed together."""
READERS = 4
"""Items that are read from their source at once."""

_MAP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass
class Packed:
    """A sample on its way into a shard."""

    members: dict[str, bytes]
    """Extension → content of its files."""
    image: np.ndarray | None
    """uint8 [H, W, 3], as its file is decoded later; None for text alone."""
    maps: dict[str, np.ndarray]
    odd: list[str]


@dataclass(frozen=True)
class Maker:
    """Makes shards of items; `maps` makes what an image lacks, `encoder` encodes what the split `encoded` holds."""

    maps: Sequence[MapProducer] = ()
    encoder: Encoder | None = None
    encoded: str = "train"
    """The other splits are read once or twice, from pixels."""

    def make(self, items: Items, part: Part, done: Callable[[int], None] = lambda count: None) -> bytes:
        """Return the tar of a part; `done` is called with the number of items that are done. Raises as sources do."""
        tar, odd = bytearray(), list[OddItem]()
        with ThreadPoolExecutor(READERS, thread_name_prefix="items") as pool:
            try:
                read = zip(part.numbers, pool.map(partial(_read, items), part.numbers), strict=True)
                while batch := list(islice(read, SAMPLES_AT_ONCE)):
                    found = dict(self._samples(batch, odd))
                    pictured = [packed for packed in found.values() if packed.image is not None]
                    self._add_maps(pictured)
                    if self.encoder is not None and items.split == self.encoded and pictured:
                        _encode(self.encoder, pictured)
                    for number, _ in batch:
                        if number in found:
                            for member, content in found[number].members.items():
                                tar += tar_entry(f"{sample_key(items.split, number)}.{member}", content)
                        done(number + 1 - part.numbers.start)
            finally:
                pool.shutdown(cancel_futures=True)
        return bytes(tar) + odd_entry(odd) + TAR_END

    def _samples(
        self, batch: Sequence[tuple[int, SourceSample | BadItem]], odd: list[OddItem]
    ) -> Iterator[tuple[int, Packed]]:
        """Yield each sample of a batch; adds what is odd to `odd`."""
        for number, item in batch:
            try:
                if isinstance(item, BadItem):
                    raise item
                packed = pack(item)
            except BadItem as error:
                odd.append(OddItem(number=number, name=_printable(error.name), reason=error.reason, left_out=True))
            else:
                name = _printable(item.name)
                odd += [OddItem(number=number, name=name, reason=reason, left_out=False) for reason in packed.odd]
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

    Raises BadItem for an image that cannot be used, UserError for a map with an impossible name.
    """
    texts = {"caption": sample.caption, "questions": list(sample.questions)}
    if sample.name:
        texts["name"] = _printable(sample.name)
    members, odd, image = {TEXT_MEMBER: json.dumps(texts).encode()}, list(sample.odd), None
    if isinstance(sample.image, bytes):
        try:
            content, image, notes = take_in(sample.image)
        except ValueError as error:
            raise BadItem(sample.name, str(error)) from error
        members[image_extension(content)] = content
        odd += notes
    elif sample.image is not None:
        image = sample.image
        members["png"] = encode_png(image)
    for name, pixels in sample.maps.items():
        if not _MAP_NAME.fullmatch(name):
            raise UserError(f"a source gives a map named {name!r}", remedy="use letters, digits, - and _")
        members[f"{name}.png"] = encode_png(pixels)
    if image is not None and any(pixels.shape[:2] != image.shape[:2] for pixels in sample.maps.values()):
        odd.append("a map has another size than its image")
    return Packed(members, image, dict(sample.maps), odd)


def _read(items: Items, number: int) -> SourceSample | BadItem:
    try:
        return items.sample(number)
    except BadItem as error:
        return error


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
