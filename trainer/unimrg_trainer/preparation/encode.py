"""Adds to the files of each sample what a model's frozen encoder makes of it, computed for a few samples together."""

from __future__ import annotations

from collections.abc import Callable

from unimrg_trainer.data.members import decode_member, encode_array
from unimrg_trainer.data.shards import IMAGE_MEMBERS, TEXT_MEMBER
from unimrg_trainer.preparation.base import Encoder
from unimrg_trainer.preparation.write import Members
from unimrg_trainer.sample import Sample

SAMPLES_AT_ONCE = 8


class EncodedMembers:
    """The members of sample `number` with its encodings; numbers are asked for in ascending order, below `count`."""

    def __init__(self, members: Callable[[int], Members], count: int, encoder: Encoder) -> None:
        self._members, self._count, self._encoder = members, count, encoder
        self._ahead: dict[int, Members] = {}

    def __call__(self, number: int) -> Members:
        if number not in self._ahead:
            numbers = range(number, min(number + SAMPLES_AT_ONCE, self._count))
            members = [self._members(each) for each in numbers]
            arrays = self._encoder.encode([_sample(str(n), one) for n, one in zip(numbers, members, strict=True)])
            # behind the texts: a short read then serves whoever needs no pixels
            self._ahead = {
                each: {
                    TEXT_MEMBER: one[TEXT_MEMBER],
                    **{member: encode_array(array) for member, array in encoded.items()},
                    **{member: content for member, content in one.items() if member != TEXT_MEMBER},
                }
                for each, one, encoded in zip(numbers, members, arrays, strict=True)
            }
        return self._ahead.pop(number)


def _sample(key: str, members: Members) -> Sample:
    """Return a sample as who reads its stored files gets it."""
    contents = {member: decode_member(member, content, key)[0] for member, content in members.items()}
    maps = {member.removesuffix(".png"): contents[member] for member in contents if member.endswith(".png")}
    return Sample(key, next(contents[member] for member in IMAGE_MEMBERS if member in contents), maps)
