"""Reads pieces of objects ahead of their use: neighbours with one request, several at once, in bounded memory.

What is read comes in groups, the steps of training. The groups that fit into the memory are looked at together, their
pieces are put in order of place, and pieces that lie close together become one read. A group that is waited for
is read whatever memory is taken, so that nothing can stop for lack of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from unimrg_trainer.data.shards import Extent, read_extent

MEMORY_BYTES = 256 << 20
FIRST_BYTES = 4 << 20
"""What is looked at together at first, so that the first group does not wait for the rest."""
READ_BYTES = 4 << 20
"""Largest read, unless a single piece is larger."""
GAP_BYTES = 128 << 10
"""What may lie between two pieces of one read: reading it costs less than another request."""
CONNECTIONS = 8
MOST_GROUPS = 256
"""Groups that are looked at together, and read before they are waited for, however little they need: a piece of a few
kilobytes takes as much again for keeping it."""


class Group:
    """The pieces of one group; for as long as it is open they take memory."""

    def __init__(self, ahead: ReadAhead, extents: Sequence[Extent]) -> None:
        self._ahead = ahead
        self.pieces: dict[Extent, Future[bytes]] = {extent: Future() for extent in extents}
        self.length = sum(extent.length for extent in self.pieces)

    def read(self, extent: Extent) -> bytes:
        """Return a piece of the group once it is there; another one is read directly. Raises StorageError."""
        piece = self.pieces.get(extent)
        return read_extent(extent) if piece is None else piece.result()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.release(self)


@dataclass
class _Read:
    """One read of neighbouring pieces; `group` is the first that needs it."""

    extent: Extent
    group: int
    pieces: list[tuple[Extent, Future[bytes]]]

    @property
    def length(self) -> int:
        """Bytes that stay in memory, without what lies between the pieces."""
        return sum(extent.length for extent, _ in self.pieces)


class ReadAhead:
    """Reads the `groups`, which are numbered from `first` on, in threads of its own.

    Close it, or use it as a context manager: what is still waited for raises CancelledError.
    """

    def __init__(
        self,
        groups: Iterator[Sequence[Extent]],
        first: int = 0,
        *,
        memory_bytes: int = MEMORY_BYTES,
        connections: int = CONNECTIONS,
        read: Callable[[Extent], bytes] = read_extent,
    ) -> None:
        """`read` brings what lies together, from the storage or a cache before it (`data/local_cache.py`). What is held
        may exceed `memory_bytes` by as much again, for a group that is waited for."""
        self._groups = groups
        self._next = first
        self._memory_bytes = memory_bytes
        self._read = read
        self._changed = threading.Condition()
        self._ready: dict[int, Group] = {}
        self._open: set[Group] = set()
        self.held = 0
        """Bytes that are read, or being read, for groups that are not released yet."""
        self._wanted = first - 1
        self._planned = False
        self._failure: BaseException | None = None
        self._closed = False
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="read-ahead")
        self._planner = threading.Thread(target=self._plan, name="read-ahead-plan", daemon=True)
        self._planner.start()

    def group(self, number: int) -> Group:
        """Return group `number`, each once; one behind the last is empty, and all that is asked of it read directly.

        Raises what the iterator of the groups raised, if it came to that.
        """
        with self._changed:
            self._wanted = max(self._wanted, number)
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._ready or self._planned or self._closed)
            if self._failure is not None and number not in self._ready:
                raise self._failure
            return self._ready.pop(number, None) or Group(self, ())

    def release(self, group: Group) -> None:
        """Give the memory of a group back."""
        with self._changed:
            self._open.discard(group)
            self.held -= group.length
            self._changed.notify_all()

    def close(self) -> None:
        """Stop; returns when no thread runs any more. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._planner.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            unread = [piece for group in self._open for piece in group.pieces.values()]
        for piece in unread:
            piece.cancel()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self) -> None:
        limit = min(FIRST_BYTES, self._memory_bytes)
        while not self._closed and (taken := self._take(limit)):
            for read in reads_of(taken):
                with self._changed:
                    while not self._may_start(read):
                        self._changed.wait()
                    if self._closed:
                        return
                    self.held += read.length
                self._pool.submit(_fetch, read, self._read)
            limit = self._memory_bytes
        with self._changed:
            self._planned = True
            self._changed.notify_all()

    def _next_extents(self) -> Sequence[Extent] | None:
        if self._failure is not None:
            return None
        try:
            return next(self._groups, None)
        except BaseException as error:
            self._failure = error
            return None

    def _may_start(self, read: _Read) -> bool:
        if self._closed or read.group <= self._wanted:
            return True
        return read.group <= self._wanted + MOST_GROUPS and self.held + read.length <= self._memory_bytes

    def _take(self, limit: int) -> dict[int, Group]:
        """Take the next groups, of about `limit` bytes; fewer where they turn to other objects.

        These begin another window of the order, whose pieces are closer together if they are looked at as a whole.
        Where the groups' iterator raises, those before it are returned, to be read, and the error is kept.
        """
        taken: dict[int, Group] = {}
        objects: set[tuple[int, str]] = set()
        size = 0
        while size < limit and len(taken) < MOST_GROUPS and (extents := self._next_extents()) is not None:
            group = Group(self, extents)
            size += group.length
            taken[self._next] = group
            with self._changed:
                self._ready[self._next] = group
                self._open.add(group)
                self._changed.notify_all()
            self._next += 1
            before = len(objects)
            objects |= {(id(extent.store), extent.key) for extent in extents}
            if size > limit // 8 and len(objects) > before and limit > FIRST_BYTES:
                break
        return taken


def reads_of(groups: dict[int, Group]) -> list[_Read]:
    """Return the reads that bring all pieces of these groups, in the order in which they are needed."""
    pieces = [(extent, number, piece) for number, group in groups.items() for extent, piece in group.pieces.items()]
    pieces.sort(key=lambda one: (id(one[0].store), one[0].key, one[0].offset))
    reads: list[_Read] = []
    for extent, number, piece in pieces:
        last = reads[-1] if reads else None
        if last is not None and last.extent[:2] == extent[:2]:
            end = last.extent.offset + last.extent.length
            length = max(end, extent.offset + extent.length) - last.extent.offset
            if extent.offset - end <= GAP_BYTES and (length <= READ_BYTES or extent.offset < end):
                last.extent = last.extent._replace(length=length)
                last.group = min(last.group, number)
                last.pieces.append((extent, piece))
                continue
        reads.append(_Read(extent, number, [(extent, piece)]))
    return sorted(reads, key=lambda read: read.group)


def _fetch(read: _Read, bring: Callable[[Extent], bytes]) -> None:
    try:
        content = memoryview(bring(read.extent))
    except BaseException as error:
        for _, piece in read.pieces:
            piece.set_exception(error)
        return
    for extent, piece in read.pieces:
        begin = extent.offset - read.extent.offset
        try:
            piece.set_result(bytes(content[begin : begin + extent.length]))  # a copy, for the rest to be freed
        except MemoryError as error:
            piece.set_exception(error)
