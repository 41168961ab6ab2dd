"""Dealing of global rows to ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_api.errors import UserError
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 50))
def test_every_possible_world_size_deals_the_same_rows_in_the_same_cohorts(
    cohort_rows: int, cohorts: int, step: int
) -> None:
    shape = BatchShape(cohort_rows * cohorts, cohort_rows)
    alone = cohorts_of_rank(shape, step, 0, 1)
    assert [row for cohort in alone for row in cohort] == list(range(step * shape.rows, (step + 1) * shape.rows))
    for world_size in (size for size in range(1, shape.cohorts + 1) if shape.cohorts % size == 0):
        dealt = [cohorts_of_rank(shape, step, rank, world_size) for rank in range(world_size)]
        assert len({len(cohorts) for cohorts in dealt}) == 1
        assert [cohort for cohorts in dealt for cohort in cohorts] == alone


def test_a_world_size_that_would_split_cohorts_is_refused_with_remedies() -> None:
    with pytest.raises(UserError, match="4 processes") as refused:
        cohorts_of_rank(BatchShape(rows=48, cohort_rows=8), 0, 0, 4)
    assert "3 or 6 processes" in refused.value.remedy
    with pytest.raises(UserError, match="cohorts") as refused:
        cohorts_of_rank(BatchShape(rows=16, cohort_rows=8), 0, 0, 5)
    assert "multiple of 40" in refused.value.remedy
    cohorts_of_rank(BatchShape(rows=40, cohort_rows=8), 0, 0, 5)
