"""Stores around a real one that lose replies, fail, pause or lie at chosen keys."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable

from unimrg_trainer.storage import ObjectStore
from unimrg_trainer.storage.base import Content


class WrappedStore:
    """Passes everything on. `before` and `after` are called around every write: ("put" or "delete", key)."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        before: Callable[[str, str], None] = lambda *_: None,
        after: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.inner = inner
        self.uri = inner.uri
        self._before = before
        self._after = after

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        self._before("put", key)
        self.inner.put(key, data, if_absent=if_absent)
        self._after("put", key)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.inner.get(key, offset, length)

    def size(self, key: str) -> int | None:
        return self.inner.size(key)

    def age(self, key: str) -> float | None:
        return self.inner.age(key)

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        return self.inner.list(prefix)

    def folders(self) -> builtins.list[str]:
        return self.inner.folders()

    def delete(self, key: str) -> None:
        self._before("delete", key)
        self.inner.delete(key)
        self._after("delete", key)

    def sweep(self, folder: str) -> None:
        self.inner.sweep(folder)


class LyingStore(WrappedStore):
    """Flips one bit of what is read under keys that match `pattern`; nothing is stored wrong."""

    def __init__(self, inner: ObjectStore, pattern: str) -> None:
        super().__init__(inner)
        self._pattern = pattern

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        content = self.inner.get(key, offset, length)
        return flip(content) if re.search(self._pattern, key) else content


def raising(error: Callable[[], BaseException], pattern: str, action: str = "put") -> Callable[[str, str], None]:
    """A `before` or `after` that raises at keys that match."""

    def check(done: str, key: str) -> None:
        if done == action and re.search(pattern, key):
            raise error()

    return check


def flip(content: bytes) -> bytes:
    """`content` with the lowest bit of its last byte turned."""
    return content[:-1] + bytes([content[-1] ^ 1])
