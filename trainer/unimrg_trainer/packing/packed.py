"""Rows laid end to end in one sequence; rows that begin with the same image share those tokens.

A row computes the same whether it stands alone or here: its tokens keep their positions, and each attends to the tokens
that it attends to alone (docs/method/packing.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from unimrg_api.arithmetic.rows import padded_length


@dataclass(frozen=True, eq=False)
class RowTokens:
    """What packing must know of a row of L tokens."""

    positions: np.ndarray
    """int [L]: position ids."""
    visibility: np.ndarray | None = None
    """bool [L, L], True where the query (first axis) sees the key; None: each token sees itself and all before it."""
    prefix: int = 0
    """Number of tokens at the start that rows with an equal `prefix_key` have in common. All later tokens see all of
    them, and they see no later token."""
    prefix_key: Hashable = None
    """None: this row shares nothing."""

    @property
    def length(self) -> int:
        """Number of tokens, L."""
        return len(self.positions)

    def sees(self, queries: slice) -> np.ndarray | None:
        """Visibility among the tokens of `queries`, None if that is causal."""
        own = None if self.visibility is None else self.visibility[queries, queries]
        return None if own is None or np.array_equal(own, np.tri(len(own), dtype=bool)) else own


@dataclass(frozen=True, eq=False)
class Chunk:
    """n consecutive tokens that see all of a shared prefix, and each other by `visibility`."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0
    visibility: np.ndarray | None = None
    """bool [n, n]; None: causal."""


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Where the tokens of rows stand in one sequence of T places."""

    places: tuple[np.ndarray, ...]
    """Of each row, int [L]: the place of each token. Rows that share a prefix have its places in common."""
    positions: np.ndarray
    """int [T]: position ids; 0 at the padding behind the last row."""
    chunks: tuple[Chunk, ...]
    """They cover every place but the padding, once."""


def pack_rows(rows: Sequence[RowTokens]) -> PackedRows:
    """Lay rows end to end, in their order; a prefix stands before the first row that has it.

    Raises ValueError where a row's prefix cannot be shared: it sees later tokens, or a later token does not see it.
    """
    uses: dict[Hashable, int] = {}
    for row in rows:
        if row.prefix_key is not None:
            uses[row.prefix_key] = uses.get(row.prefix_key, 0) + 1
    places, chunks = [], []
    positions: list[np.ndarray] = []
    prefixes: dict[Hashable, Chunk] = {}
    end = 0
    for row in rows:
        if uses.get(row.prefix_key, 0) < 2:
            chunks.append(Chunk(end, row.length, visibility=row.visibility))
            places.append(np.arange(end, end + row.length))
            positions.append(row.positions)
            end += row.length
            continue
        _check_prefix(row)
        found = prefixes.get(row.prefix_key)
        if found is None:
            found = Chunk(end, row.prefix, visibility=row.sees(slice(0, row.prefix)))
            prefixes[row.prefix_key] = found
            chunks.append(found)
            positions.append(row.positions)
            end += row.prefix
        else:
            if found.length != row.prefix:
                raise ValueError("rows with equal prefix keys have prefixes of different length")
            positions.append(row.positions[row.prefix :])
        rest = row.length - row.prefix
        own = row.sees(slice(row.prefix, row.length))
        chunks.append(Chunk(end, rest, prefix_start=found.start, prefix_length=row.prefix, visibility=own))
        places.append(np.concatenate([found.start + np.arange(row.prefix), end + np.arange(rest)]))
        end += rest
    padding = padded_length(end) - end
    return PackedRows(
        places=tuple(places),
        positions=np.concatenate([*positions, np.zeros(padding, dtype=np.int64)]),
        chunks=tuple(chunks),
    )


def _check_prefix(row: RowTokens) -> None:
    if not 0 < row.prefix < row.length:
        raise ValueError("a shared prefix has at least one token, and a token follows it")
    if row.visibility is not None:
        after, before = row.visibility[row.prefix :, : row.prefix], row.visibility[: row.prefix, row.prefix :]
        if not after.all() or before.any():
            raise ValueError("a prefix cannot be shared unless all later tokens see it, and it sees none of them")


def visible_intervals(packed: PackedRows) -> np.ndarray:
    """Which places each place sees, as intervals: int [T, K, 2], first and one past the last; empty ones are (0, 0).

    The padding sees itself, so that no softmax is empty.
    """
    length = len(packed.positions)
    starts, ends = np.zeros((2, length, 1), dtype=np.int64)
    starts[:, 0], ends[:, 0] = np.arange(length), np.arange(1, length + 1)
    for chunk in packed.chunks:
        own_starts, own_ends = _runs(chunk)
        prefix = int(chunk.prefix_length > 0)
        needed = own_starts.shape[1] + prefix
        if needed > starts.shape[1]:
            starts, ends = (np.pad(one, ((0, 0), (0, needed - one.shape[1]))) for one in (starts, ends))
        rows = slice(chunk.start, chunk.start + chunk.length)
        if prefix:
            starts[rows, 0], ends[rows, 0] = chunk.prefix_start, chunk.prefix_start + chunk.prefix_length
        starts[rows, prefix:needed], ends[rows, prefix:needed] = own_starts, own_ends
    return np.stack([starts, ends], axis=-1)


def _runs(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last places of the runs of visible tokens within the chunk, each int [n, runs]."""
    offsets = np.arange(chunk.length)
    if chunk.visibility is None:
        return np.full((chunk.length, 1), chunk.start), chunk.start + offsets[:, None] + 1
    edges = np.diff(np.pad(chunk.visibility.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    most = int((edges == 1).sum(axis=1).max())
    starts, ends = np.zeros((2, chunk.length, most), dtype=np.int64)
    for edge, target in ((1, starts), (-1, ends)):
        query, key = np.nonzero(edges == edge)
        column = np.arange(len(query)) - np.searchsorted(query, query)
        target[query, column] = chunk.start + key
    return starts, ends
