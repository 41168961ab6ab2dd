"""Objects as files of this node, for readers that map them into memory: a version of a bucket's is fetched once."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError
from unimrg_trainer.storage.local import LocalStore, os_errors_as_storage_errors

logger = logging.getLogger(__name__)

CHUNK_BYTES = 128 << 20
"""How much is held in memory while an object is fetched."""


def local_file(store: ObjectStore, key: str, cache: Path, on_read: Callable[[], None] = lambda: None) -> Path:
    """Return a file with the object's content: the object's own, or a copy below `cache`.

    `on_read` is called with every piece that is fetched, for it may take longer than a stall.
    Of several processes that want the same copy one fetches it and the others wait. Copies of earlier versions are
    removed. Raises StorageError: NotFound, or what fetching or writing met.
    """
    if isinstance(store, LocalStore):
        return store.root / key
    from unimrg_trainer.storage.s3 import S3Store  # boto3 takes a while, and folders need none of it

    assert isinstance(store, S3Store), store
    found = store.find(key)
    if found is None:
        raise NotFound(f"there is no object {store.uri}/{key}")
    name = _digest(f"{store.uri}/{key}")
    path = cache / "objects" / f"{name}-{_digest(found.version)}{Path(key).suffix}"
    with os_errors_as_storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_size != found.total:
                logger.info("fetching %s/%s to %s", store.uri, key, path)
                partial = path.parent / f"{name}.partial"  # the lock's holder is the only one to write it
                with partial.open("wb") as file:
                    while content := store.get(key, file.tell(), CHUNK_BYTES):
                        file.write(content)
                        on_read()
                    file.flush()
                    os.fsync(file.fileno())  # else a loss of power may leave the name and not the content
                if store.find(key) != found or partial.stat().st_size != found.total:
                    raise StorageError(f"{store.uri}/{key} was replaced while it was fetched", remedy="try again")
                partial.replace(path)
                for earlier in path.parent.glob(f"{name}-*"):
                    if earlier != path:
                        earlier.unlink()  # who maps it into memory keeps it
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
