"""Keyed randomness: the same key gives the same draw, another key an independent one."""

from __future__ import annotations

import numpy as np

from unimrg_trainer.rng import generator, key_digest


def test_a_key_always_gives_the_same_draws() -> None:
    first = generator(42, 7, 130, "Depth", "noise").standard_normal(5)
    assert (first == generator(42, 7, 130, "Depth", "noise").standard_normal(5)).all()


def test_draws_of_a_key_never_change_between_releases() -> None:
    assert key_digest(42, 7, 130, "Depth", "noise") == 170071159077295003487144788566111598060
    assert generator(42, 7, 130, "Depth", "noise").integers(0, 1000, 4).tolist() == [218, 638, 431, 710]


def test_every_part_of_the_key_counts_and_so_does_its_type() -> None:
    base = (42, 7, 130, "Depth", "noise")
    others = [(43, *base[1:]), (42, 8, *base[2:]), (*base[:2], 131, *base[3:]), (*base[:3], "Pixel", "noise")]
    keys = {key_digest(*base), key_digest("42", *base[1:]), *(key_digest(*other) for other in others)}
    assert len(keys) == 6


def test_neighbouring_rows_are_uncorrelated() -> None:
    rows = np.stack([generator(0, 0, row, "Depth", "noise").standard_normal(2000) for row in range(6)])
    correlations = np.corrcoef(rows) - np.eye(6)
    assert np.abs(correlations).max() < 0.1
