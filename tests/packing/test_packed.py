"""Packed rows: every token keeps its position and sees what it sees in a row of its own, whatever shares its prefix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from unimrg_api.arithmetic.rows import BLOCK, padded_length
from unimrg_trainer.models.common.attention import packed_attention
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.packed import PackedRows, RowTokens, pack_rows, visible_intervals


@st.composite
def many_rows(draw: st.DrawFn) -> list[RowTokens]:
    """Rows of up to three images; some share nothing; visibility causal or arbitrary within prefix and rest."""
    prefixes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    inner = [random.random((length, length)) < 0.5 for length in prefixes]
    rows = []
    for _ in range(draw(st.integers(1, 7))):
        image = draw(st.integers(-1, len(prefixes) - 1))
        prefix = prefixes[image] if image >= 0 else 0
        rest = draw(st.integers(1, 8))
        causal = draw(st.booleans()) if image != 0 else True  # a key's rows agree about their prefix
        sees = None
        if not causal or image == 1:
            own = random.random((rest, rest)) < 0.5
            sees = np.ones((prefix + rest, prefix + rest), dtype=bool)
            sees[:prefix, prefix:] = False
            sees[:prefix, :prefix] = inner[image] if image >= 0 else True
            sees[prefix:, prefix:] = own
            np.fill_diagonal(sees, True)
        if image == 2 and sees is not None:
            sees[:prefix, :prefix] = np.tri(prefix, dtype=bool)
        positions = np.concatenate([np.arange(prefix), 50 + np.arange(rest)])
        rows.append(RowTokens(positions, sees, prefix, None if image < 0 else image))
    return rows


def alone(row: RowTokens) -> np.ndarray:
    return np.tri(row.length, dtype=bool) if row.visibility is None else row.visibility


def dense(packed: PackedRows) -> np.ndarray:
    """Visibility between all places, from the intervals."""
    keys = np.arange(len(packed.positions))
    runs = visible_intervals(packed)
    return ((runs[:, :, :1] <= keys) & (keys < runs[:, :, 1:])).any(axis=1)


@given(many_rows())
def test_a_token_sees_exactly_what_it_sees_alone(rows: list[RowTokens]) -> None:
    packed = pack_rows(rows)
    sees = dense(packed)
    for row, places in zip(rows, packed.places, strict=True):
        assert (packed.positions[places] == row.positions).all()
        assert (sees[np.ix_(places, places)] == alone(row)).all()
        assert (sees[places].sum(axis=1) == alone(row).sum(axis=1)).all()  # and nothing else


@given(many_rows())
def test_a_shared_prefix_stands_once_and_chunks_cover_all_places_once(rows: list[RowTokens]) -> None:
    packed = pack_rows(rows)
    keys = [row.prefix_key for row in rows]
    saved = sum(
        row.prefix for index, row in enumerate(rows) if row.prefix_key is not None and row.prefix_key in keys[:index]
    )
    used = sum(row.length for row in rows) - saved
    assert len(packed.positions) == padded_length(used)
    covered = sorted(place for chunk in packed.chunks for place in range(chunk.start, chunk.start + chunk.length))
    assert covered == list(range(used)) == sorted({int(place) for places in packed.places for place in places})


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=["plain", "grouped-query"])
@settings(max_examples=20)
@given(many_rows())
def test_both_ways_equal_masked_attention(heads: tuple[int, int], rows: list[RowTokens]) -> None:
    packed = pack_rows(rows)
    length = len(packed.positions)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, count, length, 8, dtype=torch.float64) for count in (heads[0], heads[1], heads[1])
    )
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=torch.from_numpy(dense(packed)), scale=0.3, enable_gqa=heads[0] != heads[1]
    )
    used = sorted({int(place) for places in packed.places for place in places})
    for composition in (Composition.GROUPED, Composition.FLEX):
        found = packed_attention(packed, composition).attend(query, key, value, 0.3)
        torch.testing.assert_close(found[:, used], expected.transpose(1, 2)[:, used], rtol=1e-10, atol=1e-12)


def test_block_masks_hold_whole_blocks_and_partial_ones_apart() -> None:
    """Three blocks of prefix, then two branches of a block each: it sees the prefix in whole and itself in part."""
    rows = [RowTokens(np.arange(512), None, 384, "image"), RowTokens(np.arange(512), None, 384, "image")]
    attention = packed_attention(pack_rows(rows), Composition.FLEX)
    assert attention.full_counts.tolist() == [[[0, 1, 2, 3, 3]]]
    assert attention.partial_counts.tolist() == [[[1, 1, 1, 1, 1]]]
    assert attention.partial_blocks[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(attention.full_blocks[0, 0, 4, :3].tolist()) == [0, 1, 2]


def test_a_prefix_that_later_tokens_do_not_see_is_refused() -> None:
    sees = np.tri(4, dtype=bool)
    sees[3, 0] = False
    ahead = np.tri(4, dtype=bool)
    ahead[0, 3] = True
    for wrong in (sees, ahead):
        with pytest.raises(ValueError, match="cannot be shared"):
            pack_rows([RowTokens(np.arange(4), wrong, 2, "image")] * 2)
    with pytest.raises(ValueError, match="different length"):
        pack_rows([RowTokens(np.arange(4), None, 2, "image"), RowTokens(np.arange(4), None, 3, "image")])
    with pytest.raises(ValueError, match="a token follows"):
        pack_rows([RowTokens(np.arange(2), None, 2, "image")] * 2)


@given(st.integers(1, 10**6))
def test_few_lengths_occur_and_little_is_padding(tokens: int) -> None:
    length = padded_length(tokens)
    assert length >= tokens and length % BLOCK == 0
    assert length - tokens < max(BLOCK, tokens / 32 + 1)
    assert len({padded_length(50_000 + more) for more in range(1024)}) <= 2


def test_packed_names_the_way_that_is_fastest_on_the_device() -> None:
    assert Composition.chosen("Packed", flex=False) is Composition.GROUPED
    assert Composition.chosen("Packed", flex=True) is Composition.FLEX
    assert Composition.chosen("Official", flex=True) is Composition.OFFICIAL
