"""The reading order: a permutation per epoch in windows of a few shards, mixed exactly, the same after any restart."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.data.order import WINDOW_SHARDS, MixedOrder, StoredOrder, WindowedOrder
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=20).filter(any)


def rows(order: WindowedOrder | MixedOrder, count: int, start: int = 0) -> list[int]:
    return [order.record(row) for row in range(start, start + count)]


@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(seed: int, sizes: list[int], epoch: int) -> None:
    size = sum(sizes)
    assert sorted(rows(WindowedOrder(seed, "images", sizes), size, epoch * size)) == list(range(size))


@given(sizes=SIZES, epoch=st.integers(0, 3))
def test_rows_near_each_other_lie_in_few_shards(sizes: list[int], epoch: int) -> None:
    """A window is read as a whole before another one begins."""
    size = sum(sizes)
    shard_of = [shard for shard, count in enumerate(sizes) for _ in range(count)]
    read = [shard_of[record] for record in rows(WindowedOrder(5, "images", sizes), size, epoch * size)]
    first, last = (
        {shard: place for place, shard in pairs} for pairs in (reversed([*enumerate(read)]), enumerate(read))
    )
    for place in range(size):
        assert sum(first[shard] <= place <= last[shard] for shard in first) <= WINDOW_SHARDS


def test_epochs_seeds_and_sources_have_different_orders() -> None:
    orders = [
        tuple(rows(WindowedOrder(seed, source, [20, 20, 10]), 50, start))
        for seed in (0, 1)
        for source in ("images", "questions")
        for start in (0, 50, 100)
    ]
    assert len(set(orders)) == len(orders)


def test_shards_meet_others_in_every_epoch() -> None:
    order = WindowedOrder(3, "images", [1] * 40)
    windows = {frozenset(rows(order, WINDOW_SHARDS, epoch * 40)) for epoch in range(20)}
    assert len(windows) == 20


def test_the_order_is_the_same_on_every_machine() -> None:
    first, second = [7, 6, 1, 3, 9, 2, 0, 8, 5, 4], [2, 7, 9, 4, 8, 1, 3, 5, 0, 6]
    assert rows(WindowedOrder(42, "images", [2] * 5), 20) == first + second  # one window
    assert rows(WindowedOrder(42, "images", [1] * 10), 10) == [8, 1, 4, 3, 0, 7, 6, 5, 9, 2]


def test_a_damaged_record_gives_its_place_to_the_rest_of_its_window() -> None:
    order = WindowedOrder(1, "images", [3] * 8)
    window = rows(order, 24)
    assert [order.record(5), *order.substitutes(5)] == window[5:] + window[:5]
    assert list(StoredOrder(4).substitutes(1)) == []


def test_pixel_depth_and_segmentation_see_the_same_images() -> None:
    from unimrg_trainer.objectives.registry import objective

    sources = {name: objective(name).source for name in ("Pixel", "Depth", "Segmentation", "Understanding")}
    seen = {name: rows(WindowedOrder(5, source, [30]), 60) for name, source in sources.items()}
    assert seen["Pixel"] == seen["Depth"] == seen["Segmentation"]
    assert seen["Understanding"] != seen["Pixel"]


def test_an_empty_source_and_a_negative_row_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        WindowedOrder(0, "questions", [0, 0])
    with pytest.raises(ValueError, match="counted from 0"):
        WindowedOrder(0, "images", [4]).record(-1)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_any_number_of_processes_reads_the_same_rows(epoch: int) -> None:
    shape, order = BatchShape(rows=16, cohort_rows=4), WindowedOrder(2, "images", [5, 7, 9, 3, 8])
    step = epoch * 2 + 1

    def batch(world_size: int) -> list[int]:
        cohorts = [cohort for rank in range(world_size) for cohort in cohorts_of_rank(shape, step, rank, world_size)]
        return [order.record(row) for cohort in cohorts for row in cohort]

    assert batch(1) == batch(2) == batch(4) == rows(order, 16, 16 * step)


@given(weights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), start=st.integers(0, 10**9))
def test_mixed_data_keeps_its_proportions_from_any_row_on(weights: list[int], start: int) -> None:
    parts = [(StoredOrder(10**12), index * 10**12) for index in range(len(weights))]
    order, total = MixedOrder(parts, [Fraction(weight) for weight in weights]), sum(weights)
    found = Counter(record // 10**12 for record in rows(order, 5 * total, start))
    for index, weight in enumerate(weights):
        assert abs(found[index] - 5 * weight) <= 2 * len(weights) and (weight or not found[index])


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_each_data_set_of_a_mix_is_read_in_its_own_order(weights: list[int]) -> None:
    own = [WindowedOrder(7, "images", [4, 4]) for _ in weights]
    order = MixedOrder(
        [(part, index * 8) for index, part in enumerate(own)], [Fraction(weight, 3) for weight in weights]
    )
    read = rows(order, 200)
    for index, part in enumerate(own):
        mine = [record - index * 8 for record in read if record // 8 == index]
        assert mine == rows(part, len(mine))


def test_a_mix_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to mix"):
        MixedOrder([(StoredOrder(3), 0)], [Fraction()])
