"""A store of objects in a local or mounted folder: one file per object, whole or not there.

A writer fills a file of a reserved name beside the target, makes it durable, and gives it its name in one step. A
writer that is killed leaves only such a file; no reader sees it, and a later listing removes it after a day.
"""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import AlreadyExists, Content, NotFound, StorageError, check_key, check_prefix, opened

PARTIAL = ".partial-"
"""How the name of an unfinished file begins; no key may have such a part."""

LEFTOVER_SECONDS = 24 * 3600
"""Age from which an unfinished file counts as left over by a killed writer."""

COPY_BYTES = 8 << 20
RACES = 100
"""How often a folder that another process removes under our hands is made anew."""

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_REMEDIES = {
    number: (exit_code, remedy)
    for exit_code, remedy, *numbers in (
        (ExitCode.CREDENTIALS, "give the job's user access to this folder, or choose another", *_DENIED),
        (ExitCode.UNAVAILABLE, "free some space, or choose another disk", errno.ENOSPC, errno.EDQUOT),
        (ExitCode.CONFIGURATION, "an object stands where a folder must be, or the reverse", *_MISPLACED),
        (ExitCode.CONFIGURATION, "choose a shorter path", errno.ENAMETOOLONG),
    )
    for number in numbers
}
"""errno → exit code and remedy; of other errors it is not known whether they pass."""


class LocalStore:
    """Objects as files below `root`, which is made when the first one is written.

    Conditional writes need hard links, which every POSIX file system has (NFS too). Symbolic links to files
    are followed, those to folders only where a key names them, not by `list`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        path = self._path(key)
        with os_errors_as_storage_errors("write", path):
            if if_absent and path.exists():
                raise AlreadyExists(f"{path} is there already")
            partial = _write_partial(path, data)
            try:
                if if_absent:
                    _give_name(partial, path)
                else:
                    partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # deleted again, with its folder, by another process
                _sync_folder(path.parent)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._path(key)
        with os_errors_as_storage_errors("read", path):
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(-1 if length is None else length)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise NotFound(f"there is no object {path}") from None

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with os_errors_as_storage_errors("read", path):
            try:
                return path.stat().st_size if path.is_file() else None
            except FileNotFoundError:
                return None

    def age(self, key: str) -> float | None:
        path = self._path(key)
        with os_errors_as_storage_errors("read", path):
            try:
                return time.time() - path.stat().st_mtime
            except FileNotFoundError:
                return None

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        folder = self.root.joinpath(*check_prefix(prefix).split("/")[:-1])
        found: list[tuple[str, int]] = []
        with os_errors_as_storage_errors("list", folder):
            for path, size in _walk(folder):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    found.append((key, size))
        return sorted(found)

    def folders(self) -> builtins.list[str]:
        with os_errors_as_storage_errors("list", self.root), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False))
        return []

    def delete(self, key: str) -> None:
        path = self._path(key)
        with os_errors_as_storage_errors("delete", path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            # durable before the caller goes on: who deletes a marker first relies on this order
            with suppress(FileNotFoundError):
                _sync_folder(path.parent)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty, or somebody else removed it

    def sweep(self, folder: str) -> None:
        place = self.root.joinpath(*check_prefix(folder).split("/"))
        with os_errors_as_storage_errors("delete below", place):
            for path in place.rglob(f"{PARTIAL}*"):
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        parts = check_key(key).split("/")
        if any(part.startswith(PARTIAL) for part in parts):
            message = f"{key!r} cannot be the key of an object: {PARTIAL}… names unfinished files"
            raise StorageError(message, exit_code=ExitCode.CONFIGURATION)
        return self.root.joinpath(*parts)


def _write_partial(path: Path, data: Content) -> Path:
    """Write a durable copy of `data` beside `path`, under a reserved name; nothing is left behind if it fails."""
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{os.urandom(6).hex()}")
    with opened(data) as source:
        source.seek(0)
        for remaining in reversed(range(RACES)):
            _make_folder(path.parent)
            try:
                file = partial.open("xb")
                break
            except FileNotFoundError:  # a deletion emptied the folder and removed it between our two calls
                if not remaining:
                    raise
        try:
            with file:
                shutil.copyfileobj(source, file, COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return partial


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _give_name(partial: Path, path: Path) -> None:
    """Name the finished file, unless the name is taken (AlreadyExists)."""
    try:
        os.link(partial, path)
    except FileExistsError:
        # over NFS the reply may be lost and the client's second try finds what its first one did
        if not path.exists() or not partial.samefile(path):
            raise AlreadyExists(f"{path} is there already") from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        message = f"cannot write {path}: its file system has no hard links ({os.strerror(error.errno)})"
        remedy = "choose a folder on ext4, xfs, NFS or another POSIX file system"
        raise StorageError(message, remedy=remedy, exit_code=ExitCode.CONFIGURATION) from error


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield (file, bytes) below `folder`, in no order; removes what killed writers left over."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(PARTIAL):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path)
        else:
            with suppress(FileNotFoundError):  # deleted since, or a symbolic link to nowhere
                if entry.is_file():
                    yield path, entry.stat().st_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def os_errors_as_storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into a StorageError that names the file and a way out."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        exit_code, remedy = _REMEDIES.get(code, (ExitCode.UNAVAILABLE, ""))
        message = f"cannot {action} {path}: {os.strerror(code) if code else error}"
        raise StorageError(message, remedy=remedy, exit_code=exit_code) from error
