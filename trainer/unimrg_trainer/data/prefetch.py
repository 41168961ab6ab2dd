"""Reads ahead in threads and hands the results over in order.

Threads, because decoders release the interpreter's lock and worker processes would copy every sample once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """An endless iterator over `fetch(first)`, `fetch(first + 1)`, …; at most `depth` of them are made ahead.

    `fetch` is called from several threads and must allow that. If it raises, `next` raises the same exception where
    that item would have come, and the prefetcher is closed. A closed one raises RuntimeError instead of ending quietly.
    Close it, or use it as a context manager: pending items are dropped, running ones are waited for.
    """

    def __init__(self, fetch: Callable[[int], Item], first: int, depth: int, *, threads: int = 2) -> None:
        if depth < 1 or threads < 1:
            raise ValueError(f"depth and threads must be at least 1, got depth={depth}, threads={threads}")
        self._fetch = fetch
        self._next = first
        self._closed = False
        self._pool = ThreadPoolExecutor(min(depth, threads), thread_name_prefix="prefetch")
        self._pending: deque[Future[Item]] = deque()
        for _ in range(depth):
            self._submit()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._closed:
            raise RuntimeError("the prefetcher is closed")
        try:
            item = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        self._submit()
        return item

    def close(self) -> None:
        """Stop reading ahead; returns when no thread runs any more. May be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Prefetcher[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._fetch, self._next))
        self._next += 1
