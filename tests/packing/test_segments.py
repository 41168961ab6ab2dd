"""Trees of segments as pure data: positions, visibility, what is plain causal, and the digest of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.packing.segments import (
    Attention,
    Segment,
    is_plain_causal,
    positions,
    row_length,
    rows_digest,
    segment_starts,
    visibility,
)


@st.composite
def trees(draw: st.DrawFn) -> list[Segment]:
    count = draw(st.integers(1, 6))
    return [
        Segment(
            length=draw(st.integers(1, 5)),
            parent=draw(st.integers(-1, index - 1)) if index else -1,
            attention=draw(st.sampled_from(Attention)),
        )
        for index in range(count)
    ]


def naive_visibility(segments: list[Segment]) -> np.ndarray:
    """Written from the definition, token by token: in an ancestor, or in the same segment (CAUSAL: not later)."""
    owner = [index for index, segment in enumerate(segments) for _ in range(segment.length)]

    def ancestors(index: int) -> set[int]:
        parent = segments[index].parent
        return set() if parent < 0 else {parent} | ancestors(parent)

    def sees(query: int, key: int) -> bool:
        if owner[query] != owner[key]:
            return owner[key] in ancestors(owner[query])
        return key <= query or segments[owner[query]].attention is Attention.FULL

    return np.array([[sees(query, key) for key in range(len(owner))] for query in range(len(owner))])


@given(trees())
def test_visibility_is_the_definition_token_by_token(segments: list[Segment]) -> None:
    assert (visibility(segments) == naive_visibility(segments)).all()


@given(trees())
def test_a_position_counts_the_tokens_of_ancestors_and_those_before_it(segments: list[Segment]) -> None:
    expected: list[int] = []
    for segment in segments:
        before, ancestor = 0, segment.parent
        while ancestor >= 0:
            before, ancestor = before + segments[ancestor].length, segments[ancestor].parent
        expected += range(before, before + segment.length)
    assert positions(segments).tolist() == expected


@given(trees())
def test_plain_causal_is_exactly_the_lower_triangle_at_counted_positions(segments: list[Segment]) -> None:
    length = row_length(segments)
    triangle = bool((visibility(segments) == np.tril(np.ones((length, length), bool))).all())
    # one token has nothing to see but itself, under either kind of attention
    long = [s for s in segments if s.length > 1]
    counted = bool((positions(segments) == np.arange(length)).all())
    assert is_plain_causal(segments) <= (triangle and counted)
    assert (triangle and counted and all(s.attention is Attention.CAUSAL for s in long)) == (
        all(s.parent == index - 1 for index, s in enumerate(segments))
        and all(s.attention is Attention.CAUSAL for s in long)
    )
    assert segment_starts(segments) == np.cumsum([0, *(s.length for s in segments)])[:-1].tolist()


def test_the_digest_of_rows_depends_on_their_names_numbers_and_order() -> None:
    rows = [("Depth", 1), ("Pixel", 1), ("Depth", 2)]
    others = [rows[:2], rows[::-1], [("Depth", 11), *rows[1:]], [("Pixel", 1), *rows[1:]]]
    assert len({rows_digest(rows), *(rows_digest(other) for other in others)}) == 5
    assert rows_digest(iter(rows)) == rows_digest(rows) < 2**64
