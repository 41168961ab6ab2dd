"""A row of tokens as a chain of segments: which token attends to which.

A token attends to every token of the segments before its own, and within its own segment up to itself where the segment
is CAUSAL, to all of it where it is FULL. What a token stands for is the family's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from unimrg_trainer.packing.packed import RowTokens


class Attention(StrEnum):
    """Attention between the tokens of one segment."""

    CAUSAL = "causal"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of `length` tokens. Families subclass it and add what the tokens stand for."""

    length: int
    attention: Attention = Attention.CAUSAL


def row_length(segments: Sequence[Segment]) -> int:
    """Number of tokens of the row."""
    return sum(segment.length for segment in segments)


def segment_slices(segments: Sequence[Segment]) -> list[slice]:
    """The tokens of each segment within the row."""
    ends = np.cumsum([segment.length for segment in segments]).tolist()
    return [slice(end - segment.length, end) for end, segment in zip(ends, segments, strict=True)]


def row_tokens(segments: Sequence[Segment], prefix: int = 0, prefix_key: Hashable = None) -> RowTokens:
    """Describe the row to `pack_rows`; its first `prefix` segments may be shared by rows of an equal key."""
    positions = np.arange(row_length(segments))
    return RowTokens(positions, visibility(segments), row_length(segments[:prefix]), prefix_key)


def visibility(segments: Sequence[Segment]) -> np.ndarray | None:
    """Which token attends to which: bool [length, length], True where the query (first axis) sees the key.

    None where that is the lower triangle, which attention kernels know without a mask.
    """
    if all(segment.attention is Attention.CAUSAL for segment in segments):
        return None
    sees = np.tri(row_length(segments), dtype=bool)
    for segment, tokens in zip(segments, segment_slices(segments), strict=True):
        if segment.attention is Attention.FULL:
            sees[tokens, tokens] = True
    return sees


def rows_digest(rows: Iterable[tuple[str, int]]) -> int:
    """A 64-bit number made of the (objective, global row) pairs of one forward, in order: part of dropout's rng key."""
    text = json.dumps(list(rows))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
