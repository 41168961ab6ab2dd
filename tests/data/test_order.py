"""The reading order: a permutation per epoch, one for each source, the same after any restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.data.order import position


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 200), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(seed: int, size: int, epoch: int) -> None:
    rows = range(epoch * size, (epoch + 1) * size)
    assert sorted(position(seed, "images", size, row) for row in rows) == list(range(size))


def test_epochs_seeds_and_sources_have_different_orders() -> None:
    size = 50
    orders = [
        tuple(position(seed, source, size, row) for row in range(start, start + size))
        for seed in (0, 1)
        for source in ("images", "questions")
        for start in (0, size, 2 * size)
    ]
    assert len(set(orders)) == len(orders)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert [position(42, "images", 10, row) for row in range(10)] == [7, 6, 1, 3, 9, 2, 0, 8, 5, 4]


def test_pixel_depth_and_segmentation_see_the_same_images() -> None:
    from unimrg_trainer.objectives.registry import objective

    sources = {name: objective(name).source for name in ("Pixel", "Depth", "Segmentation", "Understanding")}
    seen = {name: [position(5, source, 30, row) for row in range(60)] for name, source in sources.items()}
    assert seen["Pixel"] == seen["Depth"] == seen["Segmentation"]
    assert seen["Understanding"] != seen["Pixel"]


def test_an_empty_source_and_a_negative_row_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        position(0, "questions", 0, 0)
    with pytest.raises(ValueError, match="counted from 0"):
        position(0, "images", 4, -1)
