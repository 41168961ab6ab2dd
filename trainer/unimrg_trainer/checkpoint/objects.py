"""One object of a checkpoint: a safetensors file of pieces, written from memory as it lies, read in verified ranges.

Needs no torch. A piece that is a whole tensor has the tensor's name and shape in the file; another one is flat and
named after its run: `model/weight[1024:2048]`.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unimrg_trainer.checkpoint.manifest import (
    ITEM_BYTES,
    Dtype,
    Manifest,
    ObjectEntry,
    PieceEntry,
    TensorEntry,
    Unverified,
)
from unimrg_trainer.storage.base import NotFound, ObjectStore

CHUNK_BYTES = 4 << 20
"""Bytes that one digest covers: the least that is read of an object, and wasted at both ends of a range."""
FETCH_BYTES = 64 << 20
"""Bytes that one call of the store reads."""
KEPT_CHUNKS = 16
"""Chunks that are kept for the next ranges: many tensors are smaller than a chunk."""

TYPES: dict[Dtype, str] = {
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Types by their names in safetensors."""

Header = dict[str, dict[str, Any]]
"""A safetensors header: type, shape and place of each tensor; places count from the end of the header."""


def describe(
    name: str, dtype: Dtype, shape: Sequence[int], start: int, count: int, place: int
) -> tuple[str, dict[str, Any]]:
    """Return name and header entry of a piece whose bytes begin `place` bytes behind the header."""
    whole = count == math.prod(shape)
    return name if whole else f"{name}[{start}:{start + count}]", {
        "dtype": TYPES[dtype],
        "shape": list(shape) if whole else [count],
        "data_offsets": [place, place + count * ITEM_BYTES[dtype]],
    }


def header_bytes(header: Header) -> bytes:
    """Return the beginning of a safetensors file, padded so that tensors are aligned."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class BufferStream(io.RawIOBase):
    """Buffers one after another, as a file that is read: an object is sent from where its tensors lie."""

    def __init__(self, buffers: Iterable[memoryview]) -> None:
        self._buffers = [buffer for buffer in buffers if buffer.nbytes]
        self._ends = list(itertools.accumulate(buffer.nbytes for buffer in self._buffers))
        self._at = 0
        self.size = self._ends[-1] if self._ends else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, target: Any) -> int:
        """Fill the whole target, except at the end."""
        view = memoryview(target).cast("B")
        filled = 0
        index = bisect.bisect_right(self._ends, self._at)
        while filled < len(view) and index < len(self._buffers):
            buffer = self._buffers[index]
            part = buffer[buffer.nbytes - (self._ends[index] - self._at) :][: len(view) - filled]
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._at += len(part)
            index += self._at == self._ends[index]
        return filled

    def digests(self) -> list[str]:
        """Return the SHA-256 of each chunk; leaves the position at the beginning."""
        self.seek(0)
        found = [hashlib.sha256(chunk).hexdigest() for chunk in iter(lambda: self.read(CHUNK_BYTES), b"")]
        self.seek(0)
        return found


class VerifiedObjects:
    """The objects of one commit, read in ranges; nothing is returned that was not compared with a digest."""

    def __init__(self, store: ObjectStore, folder: str, manifest: Manifest) -> None:
        self._store = store
        self._folder = folder
        self._manifest = manifest
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._opened: set[str] = set()
        self._pieces: dict[str, list[tuple[str, TensorEntry, PieceEntry]]] = {}
        for name, tensor in manifest.tensors.items():
            for piece in tensor.pieces:
                self._pieces.setdefault(piece.object, []).append((name, tensor, piece))

    def read_into(self, name: str, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes of an object from `offset` on. Raises Unverified, StorageError."""
        if name not in self._opened:
            self._check_header(name)
            self._opened.add(name)
        self._read_into(name, offset, target)

    def verify(self, progress: Callable[[int], None]) -> None:
        """Read and compare every byte; calls `progress` with the bytes read since. Raises like `read_into`."""
        for name, entry in self._manifest.objects.items():
            self._check_header(name)
            step = _whole_chunks(entry)
            for start in range(0, entry.size, step):
                length = min(step, entry.size - start)
                self._fetch(name, entry, start, length)
                progress(length)

    def _check_header(self, name: str) -> None:
        """Raise Unverified unless the object is a safetensors file of the pieces that the manifest names."""
        entry, key = self._manifest.objects[name], self._folder + name
        length = 0
        if entry.size >= 8:
            length = int.from_bytes(self._read(name, 0, 8), "little")
        if not 0 < length <= entry.size - 8:
            raise Unverified(f"{key} is not a safetensors object", (name, 0, min(8, entry.size)))
        place = (name, 0, 8 + length)
        try:
            header = json.loads(self._read(name, 8, length))
        except (ValueError, RecursionError):
            raise Unverified(f"{key} is not a safetensors object", place) from None
        expected = dict(
            describe(tensor, entry.dtype, entry.shape, piece.start, piece.count, piece.offset - 8 - length)
            for tensor, entry, piece in self._pieces.get(name, [])
        )
        if header != expected:
            raise Unverified(f"{key} does not hold the tensors that its manifest names", place)

    def _read(self, name: str, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self._read_into(name, offset, memoryview(content))
        return bytes(content)

    def _read_into(self, name: str, offset: int, target: memoryview) -> None:
        entry = self._manifest.objects[name]
        size, end = entry.chunk_bytes, offset + len(target)
        at = offset
        while at < end:
            index = at // size
            content = self._kept.get((name, index))
            if content is None:
                first = index * size
                content = self._fetch(name, entry, first, min(_whole_chunks(entry), -(-end // size) * size - first))
                self._keep(name, entry, first, content)
            else:
                self._kept.move_to_end((name, index))
                first = index * size
            part = memoryview(content)[at - first :][: end - at]
            target[at - offset : at - offset + len(part)] = part
            at += len(part)

    def _fetch(self, name: str, entry: ObjectEntry, start: int, length: int) -> bytes:
        """Return bytes from the beginning of a chunk to the end of one, each compared with its digest."""
        key, size = self._folder + name, entry.chunk_bytes
        length = min(length, entry.size - start)
        try:
            content = self._store.get(key, start, length)
        except NotFound as error:
            raise Unverified(f"{key} is missing", (name, start, length)) from error
        if len(content) != length:
            raise Unverified(f"{key} ends at byte {start + len(content)} of {entry.size}", (name, start, length))
        for at in range(0, length, size):
            chunk = memoryview(content)[at : at + size]
            if hashlib.sha256(chunk).hexdigest() != entry.sha256[(start + at) // size]:
                where = f"bytes {start + at} to {start + at + len(chunk) - 1}"
                raise Unverified(
                    f"{key} is not what was written: the SHA-256 of {where} differs", (name, start + at, len(chunk))
                )
        return content

    def _keep(self, name: str, entry: ObjectEntry, first: int, content: bytes) -> None:
        """Keep the first and the last chunk of what was read: only they have parts that were not asked for."""
        size = entry.chunk_bytes
        for at in {0, (len(content) - 1) // size * size}:
            self._kept[name, (first + at) // size] = content[at : at + size]
        while len(self._kept) > KEPT_CHUNKS:
            self._kept.popitem(last=False)


def _whole_chunks(entry: ObjectEntry) -> int:
    """How much is read by one call: whole chunks."""
    return max(1, FETCH_BYTES // entry.chunk_bytes) * entry.chunk_bytes
