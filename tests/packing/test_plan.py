"""The plan as pure data: positions, visibility, packing and digests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.packing.plan import (
    Geometry,
    Plan,
    PlannedRow,
    Row,
    Segment,
    SegmentKind,
    pack_official,
)


def text(length: int, parent: int) -> Segment:
    return Segment(SegmentKind.TEXT, length, parent, tuple(range(length)), (-100,) * length)


@st.composite
def trees(draw: st.DrawFn) -> Row:
    count = draw(st.integers(1, 6))
    segments = [
        text(draw(st.integers(1, 5)), draw(st.integers(-1, index - 1)) if index else -1) for index in range(count)
    ]
    return Row("Depth", 0, tuple(segments), 1, 1.0)


def naive_visibility(row: Row) -> np.ndarray:
    """Written from the definition, token by token: same segment and not later, or in an ancestor."""
    owner = [index for index, segment in enumerate(row.segments) for _ in range(segment.length)]

    def ancestors(index: int) -> set[int]:
        parent = row.segments[index].parent
        return set() if parent < 0 else {parent} | ancestors(parent)

    return np.array(
        [
            [
                (owner[query] == owner[key] and key <= query) or owner[key] in ancestors(owner[query])
                for key in range(row.length)
            ]
            for query in range(row.length)
        ]
    )


@given(trees())
def test_visibility_is_the_definition_token_by_token(row: Row) -> None:
    assert (row.visibility() == naive_visibility(row)).all()


@given(trees())
def test_a_token_is_at_the_position_that_counts_the_tokens_it_follows(row: Row) -> None:
    assert (row.positions() == row.visibility().sum(1) - 1).all()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_chain_is_plain_causal_attention(lengths: list[int]) -> None:
    row = Row("Pixel", 0, tuple(text(length, index - 1) for index, length in enumerate(lengths)), 1, 1.0)
    assert row.is_chain()
    assert (row.visibility() == np.tril(np.ones((row.length, row.length), bool))).all()
    assert (row.positions() == np.arange(row.length)).all()


def test_siblings_do_not_see_each_other_and_restart_at_one_position() -> None:
    row = Row("Pixel", 0, (text(4, -1), text(2, 0), text(3, 0)), 1, 1.0)
    assert not row.is_chain()
    assert row.positions().tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert not row.visibility()[6:, 4:6].any()


def planned(objective: str, row: int, representation: str | None) -> PlannedRow:
    segments = [text(3, -1), Segment(SegmentKind.IMAGE, 5, 0, image=0), text(2, 1)]
    if representation:
        segments.append(Segment(SegmentKind.TARGET, 4, 2, target=0))
    return PlannedRow(
        objective, row, row, Geometry.PAD, tuple(segments), 7, 0.5, representation, 9 if representation else 0
    )


def test_official_packing_shares_nothing_and_loses_nothing() -> None:
    rows = [planned("Understanding", 0, None), planned("Depth", 1, "depth"), planned("Pixel", 2, "pixel")]
    plan = pack_official(rows)
    assert [image.sample for image in plan.images] == [0, 1, 2]
    assert [(target.sample, target.representation, target.hidden) for target in plan.targets] == [
        (1, "depth", 9),
        (2, "pixel", 9),
    ]
    assert plan.target_rows == (1, 2)
    assert [row.segments[1].image for row in plan.rows] == [0, 1, 2]
    assert plan.rows[2].segments[3].target == 1
    assert [(row.count, row.weight) for row in plan.rows] == [(7, 0.5)] * 3
    assert plan.objectives() == ["Understanding", "Depth", "Pixel"]


def test_the_digest_depends_on_every_row() -> None:
    rows = [planned("Understanding", 0, None), planned("Depth", 1, "depth")]
    digest = pack_official(rows).digest()
    assert digest == pack_official(rows).digest()
    assert digest != pack_official(rows[:1]).digest()
    assert digest != pack_official([rows[0], replace(rows[1], hidden=8)]).digest()
    assert digest != pack_official([rows[0], replace(rows[1], weight=0.25)]).digest()


def test_the_address_of_dropout_is_the_rows_and_nothing_else() -> None:
    first: Plan = pack_official([planned("Depth", 1, "depth")])
    other_weight = pack_official([replace(planned("Depth", 1, "depth"), weight=0.25)])
    assert first.rows_digest() == other_weight.rows_digest()
    assert first.rows_digest() != pack_official([planned("Depth", 2, "depth")]).rows_digest()
    assert first.rows_digest() != pack_official([planned("Pixel", 1, "pixel")]).rows_digest()
