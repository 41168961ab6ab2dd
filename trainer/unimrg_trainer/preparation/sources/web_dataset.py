"""Tars in WebDataset's form, of a folder or a bucket: their headers are read once, then each file by its place."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_sources import IMAGE_SUFFIXES, WebDatasetSpec
from unimrg_trainer.maps.registry import stored_maps
from unimrg_trainer.preparation.base import BadItem, SourcePlace, SourceSample
from unimrg_trainer.preparation.sources.beside import VERSION, sample_of, split_at_random
from unimrg_trainer.preparation.sources.files import File, Files, digest_of_files

READ_AHEAD = 64 << 10
"""Bytes that are read for a header: those of small files are in it, and the next headers."""
TARS_AT_ONCE = 16
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Item(NamedTuple):
    """A sample: its tar, its key, and ending → (first byte, length)."""

    tar: File
    key: str
    members: Mapping[str, tuple[int, int]]


class WebDataset:
    """The source `webDataset`."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self._settings, self._place = WebDatasetSpec.model_validate(settings), place
        folder, _, pattern = self._settings.uri.rpartition("/") if "{" in self._settings.uri else ("", "", "")
        self._pattern = pattern
        self._files = Files(folder or self._settings.uri, place, "uri")
        self.texts: dict[str, int] = {}

    def identity(self) -> Any:
        """Return the digest of the tars' names, sizes and versions, and how much is held out."""
        return {"version": VERSION, "files": digest_of_files(self._tars), "heldOut": self._settings.held_out}

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """How many samples each split has: every tar's headers are read. Raises JobError (65) for what is no tar."""
        return {split: len(numbers) for split, numbers in self._numbers.items()}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return a sample. Raises BadItem, and as `Files.read` does."""
        item = self._items[self._numbers[split][number]]
        name = f"{item.tar.name}:{item.key}"
        images = [ending for ending in item.members if f".{ending}".lower() in IMAGE_SUFFIXES]
        if not images:
            raise BadItem(name, "it has no image")
        maps = {f"{map}.png": map for map in self._known_maps}
        used = (images[0], "txt", "json", *maps)  # others may be films and arrays
        read = {kind: self._files.read(item.tar, *item.members[kind]) for kind in used if kind in item.members}
        texts = {kind: read[kind] for kind in ("txt", "json") if kind in read}
        return sample_of(name, read[images[0]], texts, {map: read[kind] for kind, map in maps.items() if kind in read})

    @cached_property
    def _known_maps(self) -> frozenset[str]:
        return stored_maps()

    @cached_property
    def _numbers(self) -> Mapping[str, Any]:
        return split_at_random(len(self._items), self._settings.held_out, self._place)

    @cached_property
    def _tars(self) -> list[File]:
        """The tars by name. Raises JobError (66) where there are none, or not all that are asked for."""
        listed = self._files.listed
        if self._pattern:
            names = _expanded(self._pattern)
            missing = [name for name in names if name not in listed]
        else:
            names, missing = [name for name in listed if name.endswith(".tar")], []
        if missing or not names:
            absent = f"{len(missing)} tars do not exist, the first is {missing[0]}" if missing else "there is no tar"
            raise self._files.refused(absent, "correct the URI, or put them there")
        return [listed[name] for name in names]

    @cached_property
    def _items(self) -> list[_Item]:
        with ThreadPoolExecutor(TARS_AT_ONCE, thread_name_prefix="tars") as pool:
            return [item for items in pool.map(self._samples_of, self._tars) for item in items]

    def _samples_of(self, tar: File) -> list[_Item]:
        found: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            for name, start, size in _members(lambda at, length: self._files.read(tar, at, length), tar.size):
                folder, slash, last = name.rpartition("/")
                stem, _, ending = last.partition(".")
                if not (stem.startswith("__") and stem.endswith("__")):  # metadata
                    found.setdefault(f"{folder}{slash}{stem}", {})[ending] = (start, size)
        except tarfile.TarError as error:
            raise self._refused(f"{tar.name} is no whole tar: {error}") from error
        except BadItem as error:
            raise self._refused(f"{tar.name} cannot be used: {error.reason}") from error
        return [_Item(tar, key, members) for key, members in found.items()]

    def _refused(self, message: str) -> Exception:
        return self._place.refused("uri", self._settings.uri, message, "replace it", ExitCode.DATA_CORRUPT)


def _expanded(pattern: str) -> list[str]:
    """Return the names that a pattern like part-{000..127}.tar stands for."""
    match = _NUMBERS.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    width = len(match[1])
    return [
        name
        for number in range(first, last + 1)
        for name in _expanded(f"{pattern[: match.start()]}{number:0{width}}{pattern[match.end() :]}")
    ]


class _Remote(io.RawIOBase):
    """A file that is read in parts, as a stream that can be placed anywhere."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._part, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(self._size - self._at, 0))
        content = self._part(self._at, length) if length else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _members(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first byte, length) of each file of a tar. Raises TarError."""
    stream = io.BufferedReader(_Remote(read, size), READ_AHEAD)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.isreg():
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError(f"{info.name} is cut off")
                yield info.name, info.offset_data, info.size
        stream.seek(archive.offset)
        end = stream.read(2 * tarfile.BLOCKSIZE)
        if not end or any(end):  # tarfile takes a header that is damaged or missing for the end
            raise tarfile.ReadError(f"its header at byte {archive.offset} is damaged or missing")
