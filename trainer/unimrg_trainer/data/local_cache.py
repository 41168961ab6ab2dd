"""Keeps what is read of a bucket's shards on this node's disk, so that later epochs and other processes read it there.

Shards are kept in blocks, a file each, that every process of the node may read and write. A block appears by renaming
a finished file, so a killed writer leaves nothing that counts. Nobody trusts one: samples are checked as without a
cache, and what does not match is read from the bucket (docs/method/data.md). A disk that is full or broken costs the
cache, never the training.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TextIO

from unimrg_trainer.data.shards import Extent, read_extent

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
IN_USE_SECONDS = 3600.0
"""A data set from which something was read or kept so lately is not removed to make room for another."""
TOUCH_SECONDS = 60.0
_PARTIAL = ".partial-"
_SIZE = "size"
"""File with the bytes that are kept, as counted: at least what is there."""


class LocalCache:
    """Blocks of shards below `folder`, of `quota` bytes at most. Safe between threads and processes.

    Once the quota is used up, splits that nobody reads are removed, the one first that was used longest ago. Of what is
    read nothing is removed: training reads every sample once in an epoch, so whatever went would be wanted again before
    most of the rest. What does not fit is read from the bucket in every epoch.
    """

    def __init__(self, folder: Path, quota: int) -> None:
        self._folder, self._quota = folder, quota
        self._takes = True
        """Whether this process still adds blocks."""
        self._touched: dict[Path, float] = {}
        self._lock = threading.Lock()

    def read(self, extent: Extent) -> bytes:
        """Return what `read_extent` does; a local store's files are read where they are. Raises StorageError."""
        if not extent.store.uri.startswith("s3://") or not extent.length:
            return read_extent(extent)
        numbers = range(extent.offset // BLOCK_BYTES, (extent.offset + extent.length - 1) // BLOCK_BYTES + 1)
        end = extent.offset + extent.length
        paths = {number: self._path(extent, number) for number in numbers}
        found = {number: self._load(path, end - number * BLOCK_BYTES) for number, path in paths.items()}
        for missing, run in groupby(numbers, lambda number: found[number] is None):
            if missing:
                wanted = list(run)
                content = extent.store.get(extent.key, wanted[0] * BLOCK_BYTES, len(wanted) * BLOCK_BYTES)
                for place, number in enumerate(wanted):
                    found[number] = block = content[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                    self._keep(paths[number], block)
        whole = b"".join(block or b"" for block in found.values())
        begin = extent.offset - numbers[0] * BLOCK_BYTES
        return whole[begin : begin + extent.length]

    def _path(self, extent: Extent, number: int) -> Path:
        folder, _, name = f"{extent.store.uri}/{extent.key}".rpartition("/")
        path = self._folder / hashlib.sha256(folder.encode()).hexdigest()[:24]
        self._touch(path)
        return path / f"{name}.{number}"

    def _load(self, path: Path, wanted: int) -> bytes | None:
        """Return a block if it is there, with as many bytes as are wanted of it; the last one of a shard is shorter."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content if len(content) >= min(wanted, BLOCK_BYTES) else None

    def _keep(self, path: Path, content: bytes) -> None:
        if not self._takes or not content:
            return
        partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{os.urandom(6).hex()}")
        try:
            if not self._reserve(path.parent, len(content)):
                logger.info("the cache %s is full; the rest is read from the storage", self._folder)
                self._takes = False
                return
            path.parent.mkdir(exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        except OSError as error:
            if self._takes:
                logger.warning("nothing more is kept in %s: %s", self._folder, error.strerror or error)
            self._takes = False

    def _reserve(self, own: Path, count: int) -> bool:
        """Count bytes that are about to be kept, and make room for them; tell whether there is any."""
        with self._counted() as file:
            used = int(file.read() or "0")
            if used + count > self._quota:
                used = self._make_room(own, count)
            fits = used + count <= self._quota
            file.seek(0)
            file.truncate()
            file.write(str(used + count if fits else used))
        return fits

    @contextmanager
    def _counted(self) -> Iterator[TextIO]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _SIZE).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file

    def _make_room(self, own: Path, count: int) -> int:
        """Remove data sets that are not in use until `count` bytes fit, what killed writers left, and return the bytes
        that stay."""
        now, sizes = time.time(), dict[Path, int]()
        for folder in self._folder.iterdir():
            if folder.is_dir():
                sizes[folder] = 0
                for entry in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        state = entry.stat()
                        if entry.name.startswith(_PARTIAL) and now - state.st_mtime > IN_USE_SECONDS:
                            Path(entry.path).unlink()
                        else:
                            sizes[folder] += state.st_size
        for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
            if sum(sizes.values()) + count <= self._quota:
                break
            if folder != own and now - folder.stat().st_mtime > IN_USE_SECONDS:
                logger.info("removing %s from the cache, which nobody has read lately", folder)
                shutil.rmtree(folder, ignore_errors=True)
                del sizes[folder]
        return sum(sizes.values())

    def _touch(self, folder: Path) -> None:
        """Note on the disk that a data set is in use."""
        now = time.monotonic()
        with self._lock:
            if now - self._touched.get(folder, -TOUCH_SECONDS) < TOUCH_SECONDS:
                return
            self._touched[folder] = now
        with suppress(OSError):
            os.utime(folder)
