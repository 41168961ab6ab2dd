"""Replaces small local files that other processes read while they are written, and takes the digest of large ones."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace the file so that a reader sees the old or the new content, never a part. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:  # on a full disk nothing may be left that fills it further
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, which is read again only if its size or time has changed."""
    state = path.stat()
    return _file_sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _file_sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
