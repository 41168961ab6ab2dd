"""How many tokens and pairs of tokens the rows of a forward have, one sequence for each or all in one
(docs/method/packing.md)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from unimrg_api.arithmetic.layers import Counts

BLOCK = 128
"""The length of a packed sequence is a multiple of this many tokens."""


def padded_length(tokens: int) -> int:
    """Round up to a multiple of BLOCK, and of a 32nd of the largest power of two within: kernels that are compiled for
    one length then meet few, and at most 3 % of a long sequence is padding."""
    multiple = max(BLOCK, 2 ** (tokens.bit_length() - 6) if tokens.bit_length() > 6 else 1)
    return -(-tokens // multiple) * multiple


def nearest_process_counts(cohorts: int, processes: int) -> str:
    """Return the numbers of processes nearest to `processes`, which does not divide `cohorts`, that do: "3 or 6"."""
    possible = [count for count in range(1, cohorts + 1) if cohorts % count == 0]
    below = [count for count in possible if count < processes][-1:]
    above = [count for count in possible if count > processes][:1]
    return " or ".join(map(str, below + above))


@dataclass(frozen=True)
class Texts:
    """Tokens of a row's texts, the chat template's included."""

    question: int = 150
    answer: int = 150
    prompt: int = 26
    """Of a request for an image."""


@dataclass(frozen=True)
class Forward:
    """What the rows of one forward are about."""

    rows: int
    """Of each objective."""
    answers: bool
    """Whether questions are among the objectives."""
    maps: int
    """Objectives that generate an image from the image."""
    copies: bool
    """Whether one of these is the image itself."""
    texts: Texts
    same_images: bool = False
    """Whether questions are about the images that are generated."""
    prepared: bool = False
    """Whether what the frozen codec makes of images comes with the data."""

    @property
    def wanted(self) -> frozenset[str]:
        """What the rows are trained to give."""
        return frozenset({"answers"} if self.answers else ()) | frozenset({"images"} if self.maps else ())


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of a row; each sees itself and all before it."""

    length: float
    full: bool = False
    """They see each other."""
    everyone: bool = False
    """All tokens of the row see them."""


@dataclass(frozen=True)
class Rows:
    """Equal rows."""

    count: int
    spans: Sequence[Span]
    shared: int = 0
    """Spans at the start that rows with the same image have in common."""
    image: Hashable = None
    """Rows of equal value are about the same images, one row of each kind for each image; None: they share nothing."""

    @property
    def tokens(self) -> float:
        """Of one row."""
        return sum(span.length for span in self.spans)

    @property
    def prefix(self) -> float:
        """Shared tokens of one row."""
        return sum(span.length for span in self.spans[: self.shared])

    @property
    def causal(self) -> bool:
        """Whether no token sees a later one."""
        return not any(span.full or span.everyone for span in self.spans)


def seen_pairs(spans: Sequence[Span]) -> float:
    """(query, key) pairs of one row in which the query sees the key."""
    pairs = before = 0.0
    for span in spans:
        n = span.length
        pairs += n * before + (n * n if span.full or span.everyone else n * (n + 1) / 2)
        pairs += before * n if span.everyone else 0
        before += n
    return pairs


def official_counts(rows: Sequence[Rows], scored: float) -> Counts:
    """Every row a sequence of its own, padded to the longest; under a mask if one of them is not causal."""
    count, longest = sum(kind.count for kind in rows), max(kind.tokens for kind in rows)
    causal = all(kind.causal for kind in rows)
    return Counts(
        sum(kind.count * kind.tokens for kind in rows),
        sum(kind.count * seen_pairs(kind.spans) for kind in rows),
        count * longest,
        count * (longest * (longest + 1) / 2 if causal else longest**2),
        scored,
        mask=0 if causal else count * longest**2,
    )


def packed_counts(rows: Sequence[Rows], scored: float, *, stacked: bool) -> Counts:
    """All rows in one sequence; shared beginnings once. `stacked`: attention is computed by chunks under masks, and not
    by FlexAttention, which computes what is seen."""
    tokens = pairs = computed = keys = mask = 0.0
    for image in dict.fromkeys(kind.image for kind in rows):
        kinds = [kind for kind in rows if kind.image == image]
        share = image is not None and len(kinds) > 1
        for index, kind in enumerate(kinds):
            p = kind.prefix if share else 0.0
            beginning = seen_pairs(kind.spans[: kind.shared]) if share else 0.0
            chunks = [(kind.tokens - p, kind.tokens, seen_pairs(kind.spans) - beginning)]
            if share and index == 0:
                chunks.append((p, p, beginning))
            for queries, seen, visible in chunks:
                masked = not kind.causal or queries < seen
                tokens += kind.count * queries
                pairs += kind.count * visible
                keys += kind.count * seen
                computed += kind.count * (queries * seen if masked else visible)
                mask += (
                    0 if kind.causal else kind.count * queries * seen
                )  # one for all causal chunks is next to nothing
    length = padded_length(round(tokens))
    counted = Counts(tokens, pairs, length, computed if stacked else pairs, scored, query_copies=length)
    return replace(counted, key_copies=keys - length, mask=mask) if stacked else counted
