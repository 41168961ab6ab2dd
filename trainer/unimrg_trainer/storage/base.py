"""What a store of objects promises, whatever lies behind it: a folder, a dictionary, a bucket.

An object is bytes under a key. It is there as a whole or not at all, and a conditional `put` has exactly
one winner. That is all the protocols on top of it (checkpoints, prepared data, claims) rely on.
"""

from __future__ import annotations

import builtins
import io
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode

KEY_BYTES = 1024
"""Longest key, in UTF-8: S3's limit, so that what works in a folder works in a bucket."""


Content = bytes | Path | io.RawIOBase
"""What is stored: bytes, a file's content, or a stream that can be read more than once, from its beginning."""


class StorageError(UserError):
    """A store cannot do what was asked: the message names the object, `exit_code` whether to try again."""

    default_exit_code = ExitCode.UNAVAILABLE


class NotFound(StorageError):  # noqa: N818 - an answer more than an error
    """There is no object under this key."""

    default_exit_code = ExitCode.INPUT_MISSING


class AlreadyExists(StorageError):  # noqa: N818 - an answer more than an error
    """A conditional put found an object under its key. After a lost reply it may be the caller's own."""


class ObjectStore(Protocol):
    """Objects below one prefix.

    Keys are relative POSIX paths (`check_key`), and no key may be the folder of another. Every method
    raises StorageError: UNAVAILABLE where trying again may help, CREDENTIALS where access is denied,
    CONFIGURATION for an impossible key.
    """

    uri: str
    """Where the store is rooted, without a trailing slash."""

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        """Store `data` under `key`, a few pieces of it at a time; readers see the old object or the whole new one.

        On return the object survives a loss of power. With `if_absent`, raises AlreadyExists and changes
        nothing if there is an object already; of several writers exactly one succeeds.
        """
        ...

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset` (all to the end if None), fewer where the object ends before.

        Raises NotFound.
        """
        ...

    def size(self, key: str) -> int | None:
        """Return the object's length in bytes, None if there is none."""
        ...

    def age(self, key: str) -> float | None:
        """Return for how many seconds the object has been there, by the store's clock; None if there is none."""
        ...

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object whose key starts with `prefix`, sorted by key.

        The prefix is compared as text: end it with a slash to mean a folder.
        """
        ...

    def folders(self) -> builtins.list[str]:
        """Return the first parts of the keys that have more than one, sorted; what lies below them is not listed."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; it is no error if there is none."""
        ...

    def sweep(self, folder: str) -> None:
        """Remove what writers left unfinished below a folder (it ends with a slash) that nobody writes to any more."""
        ...


def put_once(store: ObjectStore, key: str, content: bytes) -> bool:
    """Write `content` unless there is an object under `key`; return whether what is there is this content.

    A client repeats a request whose reply was lost, and then meets its own object. So whatever the store answered, what
    it holds decides; the content must name its writer, unless all writers write the same.
    """
    try:
        store.put(key, content, if_absent=True)
    except AlreadyExists:
        try:
            return store.get(key) == content
        except NotFound:
            return False  # deleted since
    except StorageError:
        with suppress(StorageError):
            if store.get(key) == content:
                return True
        raise
    return True


def opened(data: Content) -> AbstractContextManager[Any]:
    """Return what is to be stored as a binary file that is open in the block."""
    if isinstance(data, bytes):
        return io.BytesIO(data)
    return data.open("rb") if isinstance(data, Path) else nullcontext(data)


def check_key(key: str) -> str:
    """Return `key` if every store can hold it; raise StorageError (CONFIGURATION) if not."""
    return check_prefix(key, is_key=True)


def check_prefix(prefix: str, *, is_key: bool = False) -> str:
    """Return `prefix` if it is the beginning of a possible key; raise StorageError (CONFIGURATION) if not."""
    parts = prefix.split("/")
    wrong = {
        "it names no object": is_key and not parts[-1],
        "it must be relative and have no empty part": "" in parts[:-1],
        "it may not contain the parts . and ..": "." in parts or ".." in parts,
        "it may not contain backslashes or control characters": re.search(r"[\\\x00-\x1f\x7f]", prefix),
        "it is not Unicode text": re.search("[\ud800-\udfff]", prefix),
        f"it is longer than {KEY_BYTES} bytes": len(prefix.encode(errors="replace")) > KEY_BYTES,
    }
    for reason, found in wrong.items():
        if found:
            message = f"{prefix[:200]!r} cannot be the key of an object: {reason}"
            raise StorageError(message, remedy="correct it", exit_code=ExitCode.CONFIGURATION)
    return prefix
