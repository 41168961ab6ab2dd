"""The files of one sample: what they are called, and what each of them holds."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from typing import Any

import numpy as np

from unimrg_trainer.data.decode import decode_image, decode_map
from unimrg_trainer.data.shards import IMAGE_MEMBERS, TEXT_MEMBER, DamagedSample

_ARRAY = ".npy"
_MAGIC = b"\x93NUMPY\x01\x00"
_LENGTH = slice(len(_MAGIC), len(_MAGIC) + 2)
"""Where such a file says how long the rest of its header is."""


def encoding_member(name: str, *, square: bool) -> str:
    """Return the member with an encoding; `square`: of pictures that were padded to squares (`Sample.squared`)."""
    return f"{name}.squared{_ARRAY}" if square else name + _ARRAY


def encode_array(array: np.ndarray) -> bytes:
    """Return the content of an encoding's member: NumPy's own format."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_member(member: str, content: bytes, where: str) -> tuple[Any, int]:
    """Return what a member holds and its size in memory (bytes). Raises DamagedSample that names sample and shard,
    `where`."""
    try:
        if member == TEXT_MEMBER:
            return json.loads(content), 4 * len(content)
        array: np.ndarray
        if member.endswith(_ARRAY):
            array = _decode_array(content)
        else:
            array = decode_image(content) if member in IMAGE_MEMBERS else decode_map(content)
    except (ValueError, MemoryError) as error:  # a damaged header may ask for any size
        raise DamagedSample(
            f"{member} of sample {where} cannot be decoded: {error}", remedy="prepare the data again"
        ) from error
    array.flags.writeable = False  # shared by everyone who reads this sample
    return array, array.nbytes


def _decode_array(content: bytes) -> np.ndarray:
    """Read NumPy's own format, without a copy. Raises ValueError for what is none, or holds objects."""
    if not content.startswith(_MAGIC):
        return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))  # a later version of it
    end = _LENGTH.stop + int.from_bytes(content[_LENGTH], "little")
    shape, fortran, dtype = _layout(content[:end])
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=64)  # parsing a header costs more than all the rest, and a shard has few different ones
def _layout(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[len(_MAGIC) :]))
    if dtype.hasobject:
        raise ValueError("it holds objects, which only pickle can read")
    return shape, fortran, dtype
