"""Files of a folder or a bucket as a source sees them: listed with their versions, read only as they were listed.

What is prepared is known by the listing, for which no file is read. The version of an object is its ETag, that of a
local file the time of its last change: a copy of a folder whose times differ counts as another one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unimrg_api.fields import path_of, resolve_uri
from unimrg_trainer.data.shards import CorruptDataError
from unimrg_trainer.preparation.base import BadItem, SourcePlace
from unimrg_trainer.storage.base import StorageError, check_key
from unimrg_trainer.storage.local import os_errors_as_storage_errors

if TYPE_CHECKING:
    from unimrg_trainer.storage.s3 import S3Store


class File(NamedTuple):
    """A file by its name below the folder, which may be any bytes of a file system (surrogates)."""

    name: str
    size: int
    version: str


class Files:
    """The files below a URI, `file://` or `s3://`; nothing is looked at before it is asked for."""

    def __init__(self, uri: str, place: SourcePlace, setting: str) -> None:
        """`setting` is the field of the source that holds the URI."""
        self._uri, self._place, self._setting = uri, place, setting
        self._resolved = resolve_uri(uri, place.base)
        self._root = path_of(self._resolved) if self._resolved.startswith("file://") else None

    @cached_property
    def listed(self) -> dict[str, File]:
        """All files by their names, in the order of these as bytes; hidden ones are left out.

        Raises JobError (66) for a folder that is not there, StorageError for one that cannot be listed.
        """
        found = sorted(self._list(), key=lambda file: os.fsencode(file.name))
        return {file.name: file for file in found if not any(part.startswith(".") for part in file.name.split("/"))}

    def identity(self) -> str:
        """Return the digest of names, sizes and versions."""
        return digest_of_files(list(self.listed.values()))

    def read(self, file: File, offset: int = 0, length: int | None = None) -> bytes:
        """Return the content of a file that was listed, or a part of it.

        Raises BadItem for one that may not be read, or whose key nobody can ask for, CorruptDataError (65) for one that
        changed since, StorageError.
        """
        if self._root is not None:
            return self._read_local(self._root / file.name, file, offset, length)
        try:
            check_key(file.name)
        except StorageError as error:
            raise BadItem(file.name, "its key is none that every client can ask for") from error
        content = self._store.get_version(file.name, file.version, offset, length)
        if content is None:
            raise self._changed(file)
        return content

    @property
    def _store(self) -> S3Store:
        from unimrg_trainer.storage.s3 import S3Store  # boto3 takes a while, and folders need none of it

        return S3Store(self._resolved, self._place.storage)

    def _list(self) -> Iterator[File]:
        if self._root is not None:
            if not self._root.is_dir():
                wrong = "is not a folder" if self._root.exists() else "does not exist"
                raise self.refused(f"the folder {str(self._root)!r} {wrong}", "create it, or correct the path")
            try:
                yield from _walk(self._root, "", frozenset())
            except OSError as error:
                message = f"the folder {str(self._root)!r} cannot be read: {error.strerror or error}"
                raise self.refused(message, "check its permissions, or correct the path") from error
            return
        yield from (File(*entry) for entry in self._store.versions())

    def refused(self, message: str, remedy: str) -> Exception:
        """Return the error that what lies at the URI is not what it should be."""
        return self._place.refused(self._setting, self._uri, message, remedy)

    def _read_local(self, path: Path, file: File, offset: int, length: int | None) -> bytes:
        try:
            with path.open("rb") as opened:
                state = os.fstat(opened.fileno())
                if (state.st_size, str(state.st_mtime_ns)) != (file.size, file.version):
                    raise self._changed(file)
                opened.seek(offset)
                return opened.read(-1 if length is None else length)
        except FileNotFoundError:
            raise self._changed(file) from None
        except PermissionError as error:
            raise BadItem(file.name, "its file may not be read") from error
        except OSError:
            with os_errors_as_storage_errors("read", path):
                raise
            raise

    def _changed(self, file: File) -> CorruptDataError:
        return CorruptDataError(f"{self._uri}/{file.name!r} changed since it was listed", remedy="start again")


def digest_of_files(files: Sequence[File]) -> str:
    """Return the digest of names, sizes and versions."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.name) + f"\0{file.size}\0{file.version}\n".encode())
    return digest.hexdigest()


def _walk(root: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[File]:
    """Yield all files below a folder, through links too, but not those of a folder to one that it lies in."""
    state = root.stat()
    here = (state.st_dev, state.st_ino)
    if here in above:
        return
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            elif entry.is_file():
                state = entry.stat()
                yield File(prefix + entry.name, state.st_size, str(state.st_mtime_ns))
