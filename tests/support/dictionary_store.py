"""An object store in a dictionary, with the promises of the real ones (conditional put, sorted listing)."""

from __future__ import annotations

import builtins
import threading
import time

import pytest

from unimrg_trainer.storage.base import AlreadyExists, Content, NotFound, check_key, check_prefix, opened


class DictionaryStore:
    """Keeps everything in `objects`; `writes` lists the keys as they were put, `written` has the time of each."""

    uri = "memory://run"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.written: dict[str, float] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: Content, *, if_absent: bool = False) -> None:
        with opened(data) as source:
            source.seek(0)
            content = source.read()
        with self._lock:
            if if_absent and check_key(key) in self.objects:
                raise AlreadyExists(key)
            self.objects[check_key(key)] = content
            self.writes.append(key)
            self.written[key] = time.monotonic()

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if check_key(key) not in self.objects:
            raise NotFound(key)
        return self.objects[key][offset:][:length]

    def size(self, key: str) -> int | None:
        return len(self.objects[key]) if check_key(key) in self.objects else None

    def age(self, key: str) -> float | None:
        return time.monotonic() - self.written[key] if check_key(key) in self.objects else None

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        check_prefix(prefix)
        return [(key, len(value)) for key, value in sorted(self.objects.items()) if key.startswith(prefix)]

    def folders(self) -> builtins.list[str]:
        return sorted({key.partition("/")[0] for key in self.objects if "/" in key})

    def delete(self, key: str) -> None:
        self.objects.pop(check_key(key), None)

    def sweep(self, folder: str) -> None:
        """Nothing is ever unfinished here."""


@pytest.fixture
def dictionary_store() -> DictionaryStore:
    """An object store in a dictionary."""
    return DictionaryStore()
