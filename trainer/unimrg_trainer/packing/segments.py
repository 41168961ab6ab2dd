"""A row of tokens as a tree of segments: the position of every token, and which token attends to which.

A token attends to every token of all ancestor segments, and to its own segment: up to itself where the segment is
CAUSAL, all of it where it is FULL. It attends to nothing else. Positions continue after the parent's last token, so
sibling segments start at the same position. What a token stands for is the family's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Attention(StrEnum):
    """Attention between the tokens of one segment."""

    CAUSAL = "causal"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of `length` tokens. Families subclass it and add what the tokens stand for."""

    length: int
    parent: int = -1
    """Index, within the row, of the segment that this one continues; −1 at the start of the row."""
    attention: Attention = Attention.CAUSAL


def row_length(segments: Sequence[Segment]) -> int:
    """Number of tokens of the row."""
    return sum(segment.length for segment in segments)


def segment_starts(segments: Sequence[Segment]) -> list[int]:
    """Offset of each segment's first token within the row."""
    starts = [0]
    for segment in segments[:-1]:
        starts.append(starts[-1] + segment.length)
    return starts


def is_plain_causal(segments: Sequence[Segment]) -> bool:
    """True if `visibility` is the lower triangle, which attention kernels know without a mask."""
    return all(
        segment.parent == index - 1 and segment.attention is Attention.CAUSAL for index, segment in enumerate(segments)
    )


def positions(segments: Sequence[Segment]) -> np.ndarray:
    """Position of each token, int [length]."""
    ends: list[int] = []
    for segment in segments:
        ends.append((ends[segment.parent] if segment.parent >= 0 else 0) + segment.length)
    return np.concatenate([np.arange(end - segment.length, end) for end, segment in zip(ends, segments, strict=True)])


def visibility(segments: Sequence[Segment]) -> np.ndarray:
    """Which token attends to which: bool [length, length], True where the query (first axis) sees the key."""
    starts, length = segment_starts(segments), row_length(segments)
    sees = np.zeros((length, length), dtype=bool)
    for segment, start in zip(segments, starts, strict=True):
        tokens = slice(start, start + segment.length)
        sees[tokens, tokens] = True
        if segment.attention is Attention.CAUSAL:
            sees[tokens, tokens] = np.tril(sees[tokens, tokens])
        ancestor = segment.parent
        while ancestor >= 0:
            sees[tokens, starts[ancestor] : starts[ancestor] + segments[ancestor].length] = True
            ancestor = segments[ancestor].parent
    return sees


def rows_digest(rows: Iterable[tuple[str, int]]) -> int:
    """A 64-bit number made of the (objective, global row) pairs of one forward, in order: part of dropout's rng key."""
    text = json.dumps(list(rows))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
