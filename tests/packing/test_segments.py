"""Rows of segments as pure data: which token attends to which, and the digest of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.packing.segments import Attention, Segment, row_length, row_tokens, rows_digest, segment_slices

SEGMENTS = st.lists(
    st.builds(Segment, length=st.integers(1, 5), attention=st.sampled_from(Attention)), min_size=1, max_size=6
)


@given(SEGMENTS)
def test_visibility_is_the_definition_token_by_token(segments: list[Segment]) -> None:
    """Written from the definition: all of earlier segments; of the own one no later token where it is CAUSAL."""
    owner = [index for index, segment in enumerate(segments) for _ in range(segment.length)]

    def sees(query: int, key: int) -> bool:
        full = segments[owner[query]].attention is Attention.FULL
        return owner[key] < owner[query] or (owner[key] == owner[query] and (key <= query or full))

    tokens = row_tokens(segments)
    expected = np.array([[sees(query, key) for key in range(len(owner))] for query in range(len(owner))])
    found = np.tri(len(owner), dtype=bool) if tokens.visibility is None else tokens.visibility
    assert (found == expected).all()
    assert tokens.positions.tolist() == list(range(len(owner)))


@given(SEGMENTS)
def test_the_slices_of_segments_cover_the_row_in_order(segments: list[Segment]) -> None:
    covered = [token for part in segment_slices(segments) for token in range(part.start, part.stop)]
    assert covered == list(range(row_length(segments)))


def test_a_prefix_is_counted_in_tokens() -> None:
    row = row_tokens([Segment(length=3), Segment(length=4), Segment(length=2)], 2, "image")
    assert (row.length, row.prefix, row.prefix_key, row.visibility) == (9, 7, "image", None)


def test_the_digest_of_rows_depends_on_their_names_numbers_and_order() -> None:
    rows = [("Depth", 1), ("Pixel", 1), ("Depth", 2)]
    others = [rows[:2], rows[::-1], [("Depth", 11), *rows[1:]], [("Pixel", 1), *rows[1:]]]
    assert len({rows_digest(rows), *(rows_digest(other) for other in others)}) == 5
    assert rows_digest(iter(rows)) == rows_digest(rows) < 2**64
