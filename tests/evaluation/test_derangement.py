"""Everything gets another one's, each is given once, and nothing depends on more than the seed."""

from __future__ import annotations

import pytest

from unimrg_trainer.evaluation.derangement import derangement


@pytest.mark.parametrize("count", [2, 3, 10, 257])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_keeps_its_place_and_everything_is_given_once(count: int, seed: int) -> None:
    given = derangement(count, seed)
    assert sorted(given) == list(range(count))
    assert all(other != place for place, other in enumerate(given))
    assert derangement(count, seed) == given


def test_another_seed_gives_another_permutation() -> None:
    assert len({tuple(derangement(20, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("count", [0, 1])
def test_where_there_is_no_other_none_is_given(count: int) -> None:
    with pytest.raises(ValueError, match="no other"):
        derangement(count, seed=0)
