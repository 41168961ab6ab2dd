"""The format of prepared data: WebDataset tars, an index beside each, and one manifest per split.

    <split>/manifest.json            counts, shards with sha256 of tar and index, items with issues, provenance
    <split>/<split>-000000.tar       plain tar: <key>.json, <key>.<encoding>.npy, <key>.png or .jpg, <key>.<map>.png
    <split>/<split>-000000.tar.idx   JSON: for every sample and member its offset, length and crc32

Samples with an image come before those of text alone. An item of a source that is no sample, for it cannot be read, is
listed in its tar, in the member `__issues__` (names like this are passed over by webdataset).

The tars can be read by `tarfile`, webdataset and the like. We read members by offset from the index, one ranged read
per sample, and check every byte: a damaged header or body is an error with a name, never a missing sample. Owner, time
and mode are fixed, so that the same samples give the same tar; an index is a function of its tar (`index_of`).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import NotFound, ObjectStore

FORMAT = 5
"""Goes up when the layout of tar, index or manifest changes; part of the digest of prepared data."""

TEXT_MEMBER = "json"
IMAGE_MEMBERS = ("png", "jpg")
"""Members of a sample by their extension; every other one is `<map>.png`, or an encoding (`data/members.py`)."""

ISSUES_MEMBER = "__issues__"
"""Member of a tar with the issues of the items that it was made of: a JSON list of `ItemIssue`."""
NAMED = 100
"""Names that a manifest gives of each kind of issue."""

_BLOCK = tarfile.BLOCKSIZE
_RESTORE = "delete this data set and prepare it again, or restore the file from a copy"


class CorruptDataError(UserError):
    """Stored data is not what was written: named by shard, sample key and offset."""

    default_exit_code = ExitCode.DATA_CORRUPT


class DamagedSample(CorruptDataError):  # noqa: N818 - a condition of one sample, whose place another one may take
    """One sample cannot be read; those beside it may be whole."""


_STRICT = ConfigDict(strict=True, extra="forbid")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, **_STRICT)


@dataclass(frozen=True, slots=True)  # not of Pydantic: one of each is made for every sample that is read
class Member:
    """Where the content of one file lies in its tar (bytes), and its crc32."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    offset: int
    length: int
    crc32: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One sample in an index: its members by extension (`json`, `png` or `jpg`, and those of maps and encodings)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    key: str
    questions: int
    members: dict[str, Member]

    @property
    def image(self) -> Member | None:
        """Its image; None for text alone."""
        return next((self.members[member] for member in IMAGE_MEMBERS if member in self.members), None)

    @property
    def maps(self) -> list[str]:
        """Names of its maps."""
        return [name.removesuffix(".png") for name in self.members if name.endswith(".png") and name != "png"]


class ItemIssue(_Record):
    """An item of a source that a person may want to look at: it could not be used, or not as it was."""

    number: int
    """Within its split, from 0, as in the keys of samples."""
    name: str
    """What its source calls it, in printable characters."""
    reason: str
    left_out: bool
    """It is no sample."""


class ShardIndex(_Record):
    """Content of a `.tar.idx` file: the samples of a tar, and its length (bytes) and sha256."""

    format: int = FORMAT
    length: int
    sha256: str
    samples: list[IndexEntry]
    issues: list[ItemIssue] = []

    @property
    def questions(self) -> int:
        return sum(sample.questions for sample in self.samples)


class IndexTable(Sequence[IndexEntry]):
    """The samples of one index in arrays: about 150 bytes for each, a twentieth of what they take as objects.

    Raises KeyError, TypeError, AttributeError or ValueError for what is not the content of an index.
    """

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """`samples` as they stand in the file (`ShardIndex`)."""
        self._keys = [str(sample["key"]) for sample in samples]
        self._names = sorted({name for sample in samples for name in sample["members"]})
        absent = {"offset": -1, "length": 0, "crc32": 0}
        rows = [[sample["members"].get(name, absent) for name in self._names] for sample in samples]
        places = [[(one["offset"], one["length"], one["crc32"]) for one in row] for row in rows]
        self._places = np.array(places, dtype=np.int64).reshape(len(rows), len(self._names), 3)
        self._questions = np.cumsum([0, *(int(sample["questions"]) for sample in samples)])

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def questions(self) -> int:
        return int(self._questions[-1])

    def questions_of(self, sample: int) -> range:
        """Return the numbers, within the shard, of the questions about a sample."""
        return range(int(self._questions[sample]), int(self._questions[sample + 1]))

    def sample_of(self, question: int) -> int:
        """Return the sample that a question is about."""
        return int(np.searchsorted(self._questions, question, side="right")) - 1

    def __getitem__(self, sample: Any) -> Any:
        members = {
            name: Member(offset, length, crc32)
            for name, (offset, length, crc32) in zip(self._names, self._places[sample].tolist(), strict=True)
            if offset >= 0
        }
        questions = len(self.questions_of(sample))
        return IndexEntry(self._keys[sample], questions, members)


class Shard(_Record):
    """One tar as the manifest names it; `name` is its file name within the split's folder."""

    name: str
    samples: int
    questions: int
    length: int
    sha256: str
    index_sha256: str


class IssueCount(_Record):
    """How many items of a split have one issue; `names` are the first of them."""

    count: int
    left_out: int
    names: list[str]


class Manifest(_Record):
    """Content of a split's `manifest.json`."""

    format: int = FORMAT
    split: str
    samples: int
    images: int
    """Samples with an image; they are the first ones."""
    questions: int
    least_questions: int
    """Questions about the image about which there are fewest; 0 without images."""
    maps: dict[str, int]
    """Map → images that have it."""
    shards: list[Shard]
    issues: dict[str, IssueCount] = {}
    """By reason."""
    provenance: dict[str, Any] = {}
    """JSON: where the samples are from, under which licences, what made their maps and encodings, with which versions.
    For people; nothing depends on it."""


Parsed = TypeVar("Parsed", Manifest, ShardIndex)
_ISSUES = TypeAdapter(list[ItemIssue])


def tar_entry(name: str, content: bytes) -> bytes:
    """Return a file as it stands in a tar: header, content, padding. Time, owner and mode do not depend on who writes.

    A tar is a sequence of these and `TAR_END`.
    """
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK)


TAR_END = bytes(2 * _BLOCK)


def index_of(tar: bytes, where: str) -> ShardIndex:
    """Return the index of a whole tar. Raises CorruptDataError, naming `where`, if it is not one of samples."""
    members: dict[str, dict[str, Member]] = {}
    questions: dict[str, int] = {}
    issues: list[ItemIssue] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for info in archive:
                key, _, extension = info.name.partition(".")
                content = tar[info.offset_data : info.offset_data + info.size]
                if info.name == ISSUES_MEMBER:
                    issues = _ISSUES.validate_json(content)
                    continue
                member = Member(offset=info.offset_data, length=info.size, crc32=zlib.crc32(content))
                members.setdefault(key, {})[extension] = member
                if extension == TEXT_MEMBER:
                    questions[key] = len(json.loads(content).get("questions", ()))
    except (tarfile.TarError, ValueError) as error:
        raise CorruptDataError(f"{where} is not a shard: {error}", remedy=_RESTORE) from error
    samples = [IndexEntry(key=key, questions=questions.get(key, 0), members=found) for key, found in members.items()]
    return ShardIndex(length=len(tar), sha256=sha256(tar), samples=samples, issues=issues)


def issues_entry(items: Sequence[ItemIssue]) -> bytes:
    """Return the entry of a tar that lists items with issues; nothing for none."""
    return tar_entry(ISSUES_MEMBER, _ISSUES.dump_json(list(items))) if items else b""


def as_json(record: ShardIndex | Manifest) -> bytes:
    """Return the content of a record's file; the same record gives the same bytes."""
    return record.model_dump_json().encode()


def read_manifest(store: ObjectStore, prefix: str, split: str, expected_sha256: str | None) -> Manifest:
    """Read a split's manifest; None as digest takes it as it is. Raises NotFound or CorruptDataError."""
    key = join(prefix, split, "manifest.json")
    return parse(Manifest, _read_whole(store, key, expected_sha256), f"{store.uri}/{key}")


def read_index(store: ObjectStore, prefix: str, split: str, shard: Shard) -> IndexTable:
    """Read and check the index of one shard. Raises CorruptDataError."""
    key = join(prefix, split, shard.name + ".idx")
    where = f"{store.uri}/{key}"
    try:
        raw = _read_whole(store, key, shard.index_sha256)
    except NotFound as error:
        raise _missing(where) from error
    try:
        content = json.loads(raw)
        found, table = content["format"], IndexTable(content["samples"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{where} is not an index: {error!r}", remedy="prepare the data again") from error
    if found != FORMAT:
        raise _other_format(where, found)
    if (len(table), table.questions) != (shard.samples, shard.questions):
        raise CorruptDataError(
            f"{where} lists {len(table)} samples with {table.questions} questions, "
            f"the manifest says {shard.samples} with {shard.questions}",
            remedy="prepare the data again",
        )
    return table


class Extent(NamedTuple):
    """A piece of one object: what one ranged read brings."""

    store: ObjectStore
    key: str
    offset: int
    length: int


def extent_of(
    store: ObjectStore, prefix: str, split: str, shard: Shard, sample: IndexEntry, extensions: Collection[str]
) -> Extent:
    """Return the piece of a shard that holds these members of a sample."""
    members = [sample.members[extension] for extension in extensions]
    first = min(member.offset for member in members)
    return Extent(store, join(prefix, split, shard.name), first, max(member.end for member in members) - first)


def read_extent(extent: Extent) -> bytes:
    """Read a piece of an object, fewer bytes where the object ends before. Raises StorageError."""
    return extent.store.get(extent.key, extent.offset, extent.length)


def read_members(
    sample: IndexEntry, extensions: Collection[str], extent: Extent, read: Callable[[Extent], bytes] = read_extent
) -> dict[str, bytes]:
    """Read members of one sample with one ranged read, of `extent_of` them. `read` may have the bytes already.

    Raises DamagedSample for what is damaged twice in a row.
    """
    where = f"{extent.store.uri}/{extent.key}"
    damage = ""
    for attempt in (read, read_extent):
        try:
            span = attempt(extent)
        except NotFound as error:
            raise _missing(where) from error
        contents, damage = _cut(span, extent.offset, {name: sample.members[name] for name in extensions})
        if not damage:
            return contents
    raise DamagedSample(f"shard {where} is damaged at sample {sample.key!r}: {damage} (read twice)", remedy=_RESTORE)


def sha256(content: bytes) -> str:
    """Return the hexadecimal sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def join(*parts: str) -> str:
    """Join parts of a key; empty ones vanish."""
    return "/".join(part for part in parts if part)


def parse(kind: type[Parsed], content: bytes, where: str) -> Parsed:
    """Return the record that a file `where` holds. Raises CorruptDataError."""
    try:
        record = kind.model_validate_json(content)
    except ValidationError as error:
        raise CorruptDataError(
            f"{where} is not what was written: {error.error_count()} of its fields are wrong, {_first(error)}",
            remedy="delete this data set and prepare it again",
        ) from error
    if record.format != FORMAT:
        raise _other_format(where, record.format)
    return record


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong in a record: where, and what."""
    first = error.errors(include_url=False)[0]
    return f"first {'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"


def _cut(span: bytes, first: int, members: Mapping[str, Member]) -> tuple[dict[str, bytes], str]:
    """Cut a span that starts at offset `first` into members; also say what is wrong with it, or ""."""
    contents = {}
    for extension, member in members.items():
        content = span[member.offset - first : member.end - first]
        at = f"{extension} at offset {member.offset}"
        if len(content) != member.length:
            return {}, f"{at} ends after {len(content)} of {member.length} bytes"
        if zlib.crc32(content) != member.crc32:
            return {}, f"{at} does not match its checksum"
        contents[extension] = content
    return contents, ""


def _read_whole(store: ObjectStore, key: str, expected_sha256: str | None) -> bytes:
    for _ in range(2):
        content = store.get(key)
        if expected_sha256 is None or sha256(content) == expected_sha256:
            return content
    raise CorruptDataError(f"{store.uri}/{key} does not match its sha256 (read twice)", remedy=_RESTORE)


def _other_format(where: str, found: object) -> CorruptDataError:
    return CorruptDataError(f"{where} has format {found}, this version reads {FORMAT}", remedy="prepare it again")


def _missing(where: str) -> UserError:
    return UserError(
        f"{where} is named by the manifest and does not exist", remedy=_RESTORE, exit_code=ExitCode.INPUT_MISSING
    )
