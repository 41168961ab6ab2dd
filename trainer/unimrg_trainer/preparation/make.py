"""Makes the tar of a shard: items are read ahead, looked at, given maps and encodings a few at a time, and packed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from unimrg_api.errors import UserError
from unimrg_trainer.data.decode import encode_png, image_extension, take_in
from unimrg_trainer.data.members import decode_member, encode_array
from unimrg_trainer.data.shards import IMAGE_MEMBERS, TAR_END, TEXT_MEMBER, OddItem, odd_entry, tar_entry
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

Members = dict[str, bytes]
"""Extension → content of the files of one sample."""


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
                    self._add_maps(list(found.values()))
                    if self.encoder is not None and items.split == self.encoded:
                        _encode(self.encoder, found)
                    for number, _ in batch:
                        if number in found:
                            for member, content in found[number].items():
                                tar += tar_entry(f"{sample_key(items.split, number)}.{member}", content)
                        done(number + 1 - part.numbers.start)
            finally:
                pool.shutdown(cancel_futures=True)
        return bytes(tar) + odd_entry(odd) + TAR_END

    def _samples(
        self, batch: Sequence[tuple[int, SourceSample | BadItem]], odd: list[OddItem]
    ) -> Iterator[tuple[int, Members]]:
        """Yield the files of each sample of a batch; adds what is odd to `odd`."""
        for number, item in batch:
            try:
                if isinstance(item, BadItem):
                    raise item
                members, notes = members_of(item)
            except BadItem as error:
                odd.append(OddItem(number=number, name=_printable(error.name), reason=error.reason, left_out=True))
            else:
                name = _printable(item.name)
                odd += [OddItem(number=number, name=name, reason=reason, left_out=False) for reason in notes]
                yield number, members

    def _add_maps(self, samples: Sequence[Members]) -> None:
        for producer in self.maps:
            member = f"{producer.map}.png"
            lacking = [(sample, image) for sample in samples if member not in sample and (image := _image_of(sample))]
            if lacking:
                images = [decode_member(image, sample[image], image)[0] for sample, image in lacking]
                for (sample, _), pixels in zip(lacking, producer.produce(images), strict=True):
                    sample[member] = encode_png(pixels)


def members_of(sample: SourceSample) -> tuple[Members, list[str]]:
    """Return the files of a sample, texts first, and what is odd about it.

    Raises BadItem for an image that cannot be used, UserError for a map with an impossible name.
    """
    texts = {"caption": sample.caption, "questions": list(sample.questions)}
    if sample.name:
        texts["name"] = _printable(sample.name)
    members, odd = {TEXT_MEMBER: json.dumps(texts).encode()}, list(sample.odd)
    if isinstance(sample.image, bytes):
        try:
            image, notes = take_in(sample.image)
        except ValueError as error:
            raise BadItem(sample.name, str(error)) from error
        members[image_extension(image)] = image
        odd += notes
    elif sample.image is not None:
        members["png"] = encode_png(sample.image)
    for name, pixels in sample.maps.items():
        if not _MAP_NAME.fullmatch(name):
            raise UserError(f"a source gives a map named {name!r}", remedy="use letters, digits, - and _")
        members[f"{name}.png"] = encode_png(pixels)
    return members, odd


def _read(items: Items, number: int) -> SourceSample | BadItem:
    try:
        return items.sample(number)
    except BadItem as error:
        return error


def _encode(encoder: Encoder, found: dict[int, Members]) -> None:
    """Add what an encoder makes of each sample with an image."""
    pictured = {number: members for number, members in found.items() if _image_of(members) is not None}
    if not pictured:
        return
    arrays = encoder.encode([_sample(str(number), members) for number, members in pictured.items()])
    for (number, members), encoded in zip(pictured.items(), arrays, strict=True):
        # behind the texts: a short read then serves whoever needs no pixels
        first = {TEXT_MEMBER: members[TEXT_MEMBER]}
        found[number] = {**first, **{name: encode_array(array) for name, array in encoded.items()}, **members}


def _image_of(members: Members) -> str | None:
    return next((member for member in IMAGE_MEMBERS if member in members), None)


def _sample(key: str, members: Members) -> Sample:
    """Return a sample as who reads its stored files gets it."""
    contents = {member: decode_member(member, content, key)[0] for member, content in members.items()}
    maps = {member.removesuffix(".png"): contents[member] for member in contents if member.endswith(".png")}
    return Sample(key, contents[_image_of(members) or ""], maps)


def _printable(name: str) -> str:
    """Return a name, which may be any bytes of a file system, as it can be shown anywhere."""
    return name if name.isprintable() else ascii(name)[1:-1]
