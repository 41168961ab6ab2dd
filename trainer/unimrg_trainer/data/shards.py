"""The format of prepared data: WebDataset tars, a sidecar index of each, and one manifest per split.

    <split>/manifest.json            samples, questions, shards with sha256 of tar and index
    <split>/<split>-000000.tar       plain tar: <key>.json, <key>.png or .jpg, <key>.<map>.png
    <split>/<split>-000000.tar.idx   JSON: for every sample and member its offset, length and crc32

The tars can be read by `tarfile`, webdataset and the like. We read members by offset from the index, one
ranged read per sample, and check every byte: a damaged header or body is an error with a name, never a
missing sample. The same samples give the same bytes: owner, time and mode are fixed.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import NotFound, ObjectStore

FORMAT = 2
"""Goes up when the layout of tar, index or manifest changes; part of the digest of prepared data."""

SAMPLES_PER_SHARD = 2048
BYTES_PER_SHARD = 64 * 2**20

_BLOCK = tarfile.BLOCKSIZE


class CorruptDataError(UserError):
    """Stored data is not what was written: named by shard, sample key and offset."""

    default_exit_code = ExitCode.DATA_CORRUPT


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Member(_Record):
    """Where the content of one file lies in its tar (bytes), and its crc32."""

    offset: int
    length: int
    crc32: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class IndexEntry(_Record):
    """One sample in an index: its members by extension (`json`, `png` or `jpg`, and `<map>.png` for each map)."""

    key: str
    questions: int
    members: dict[str, Member]


class ShardIndex(_Record):
    """Content of a `.tar.idx` file."""

    format: int = FORMAT
    samples: list[IndexEntry]


class Shard(_Record):
    """One tar as the manifest names it; `name` is its file name within the split's folder."""

    name: str
    samples: int
    questions: int
    length: int
    sha256: str
    index_sha256: str


class Manifest(_Record):
    """Content of a split's `manifest.json`."""

    format: int = FORMAT
    split: str
    samples: int
    questions: int
    shards: list[Shard]


Parsed = TypeVar("Parsed", Manifest, ShardIndex)


class ShardWriter:
    """Writes the samples of one split under `prefix` of a store; `finish` writes the manifest last."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        split: str,
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
    ) -> None:
        self._store = store
        self._folder = join(prefix, split)
        self._split = split
        self._samples_per_shard = samples_per_shard
        self._bytes_per_shard = bytes_per_shard
        self._shards: list[Shard] = []
        self._body = bytearray()
        self._samples: list[IndexEntry] = []

    def add(self, key: str, members: Mapping[str, bytes], questions: int) -> None:
        """Append a sample. No dots or slashes in `key`: WebDataset splits names at the first dot."""
        assert key and "." not in key and "/" not in key, key
        written = {}
        for extension, content in members.items():
            header = _header(f"{key}.{extension}", len(content))
            offset = len(self._body) + len(header)
            self._body += header + content + bytes(-len(content) % _BLOCK)
            written[extension] = Member(offset=offset, length=len(content), crc32=zlib.crc32(content))
        self._samples.append(IndexEntry(key=key, questions=questions, members=written))
        if len(self._samples) >= self._samples_per_shard or len(self._body) >= self._bytes_per_shard:
            self._flush()

    def finish(self) -> str:
        """Write what is left and the manifest; return the manifest's sha256."""
        self._flush()
        manifest = Manifest(
            split=self._split,
            samples=sum(shard.samples for shard in self._shards),
            questions=sum(shard.questions for shard in self._shards),
            shards=self._shards,
        )
        content = _json(manifest)
        self._store.put(join(self._folder, "manifest.json"), content)
        return sha256(content)

    def _flush(self) -> None:
        if not self._samples:
            return
        name = f"{self._split}-{len(self._shards):06d}.tar"
        content = bytes(self._body) + bytes(2 * _BLOCK)
        index = _json(ShardIndex(samples=self._samples))
        self._store.put(join(self._folder, name), content)
        self._store.put(join(self._folder, name + ".idx"), index)
        self._shards.append(
            Shard(
                name=name,
                samples=len(self._samples),
                questions=sum(sample.questions for sample in self._samples),
                length=len(content),
                sha256=sha256(content),
                index_sha256=sha256(index),
            )
        )
        self._body = bytearray()
        self._samples = []


def read_manifest(store: ObjectStore, prefix: str, split: str, expected_sha256: str | None) -> Manifest:
    """Read a split's manifest; None as digest takes it as it is. Raises NotFound or CorruptDataError."""
    key = join(prefix, split, "manifest.json")
    content = _read_whole(store, key, expected_sha256)
    return _parse(Manifest, content, f"{store.uri}/{key}")


def read_index(store: ObjectStore, prefix: str, split: str, shard: Shard) -> list[IndexEntry]:
    """Read and check the index of one shard. Raises CorruptDataError."""
    key = join(prefix, split, shard.name + ".idx")
    where = f"{store.uri}/{key}"
    try:
        samples = _parse(ShardIndex, _read_whole(store, key, shard.index_sha256), where).samples
    except NotFound as error:
        raise _missing(where) from error
    questions = sum(sample.questions for sample in samples)
    if (len(samples), questions) != (shard.samples, shard.questions):
        raise CorruptDataError(
            f"{where} lists {len(samples)} samples with {questions} questions, "
            f"the manifest says {shard.samples} with {shard.questions}",
            remedy="prepare the data again",
        )
    return samples


def read_members(
    store: ObjectStore, prefix: str, split: str, shard: Shard, sample: IndexEntry, extensions: Sequence[str]
) -> dict[str, bytes]:
    """Read members of one sample with one ranged read and check them; damage is read once more, then
    CorruptDataError.
    """
    key = join(prefix, split, shard.name)
    where = f"{store.uri}/{key}"
    members = {extension: sample.members[extension] for extension in extensions}
    first = min(member.offset for member in members.values())
    last = max(member.end for member in members.values())
    damage = ""
    for _ in range(2):
        try:
            span = store.get(key, first, last - first)
        except NotFound as error:
            raise _missing(where) from error
        contents, damage = _cut(span, first, members)
        if not damage:
            return contents
    raise CorruptDataError(
        f"shard {where} is damaged at sample {sample.key!r}: {damage} (read twice)",
        remedy="delete this data set and prepare it again, or restore the shard from a copy",
    )


def sha256(content: bytes) -> str:
    """Return the hexadecimal sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def join(*parts: str) -> str:
    """Join parts of a key; empty ones vanish."""
    return "/".join(part for part in parts if part)


def _cut(span: bytes, first: int, members: Mapping[str, Member]) -> tuple[dict[str, bytes], str]:
    """Cut a span that starts at offset `first` into members; also say what is wrong with it, or ""."""
    contents = {}
    for extension, member in members.items():
        content = span[member.offset - first : member.end - first]
        if len(content) != member.length:
            return (
                {},
                f"{extension} at offset {member.offset} ends after {len(content)} of {member.length} bytes",
            )
        if zlib.crc32(content) != member.crc32:
            return {}, f"{extension} at offset {member.offset} does not match its checksum"
        contents[extension] = content
    return contents, ""


def _read_whole(store: ObjectStore, key: str, expected_sha256: str | None) -> bytes:
    for _ in range(2):
        content = store.get(key)
        if expected_sha256 is None or sha256(content) == expected_sha256:
            return content
    raise CorruptDataError(
        f"{store.uri}/{key} does not match its sha256 (read twice)",
        remedy="delete this data set and prepare it again, or restore the file from a copy",
    )


def _parse(kind: type[Parsed], content: bytes, where: str) -> Parsed:
    try:
        record = kind.model_validate_json(content)
    except ValidationError as error:
        raise CorruptDataError(f"{where} is not a {kind.__name__}: {error}", remedy="prepare the data again") from error
    if record.format != FORMAT:
        raise CorruptDataError(
            f"{where} has format {record.format}, this version reads {FORMAT}", remedy="prepare it again"
        )
    return record


def _missing(where: str) -> UserError:
    return UserError(
        f"{where} is named by the manifest and does not exist",
        remedy="delete this data set and prepare it again, or restore the file from a copy",
        exit_code=ExitCode.INPUT_MISSING,
    )


def _header(name: str, length: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = length
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)  # TarInfo's defaults: time 0, owner 0, no owner names


def _json(record: BaseModel) -> bytes:
    return record.model_dump_json().encode()
