"""Families are found by name, and an unknown name is answered with the known ones."""

from __future__ import annotations

import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.models.registry import family


def test_harmon_is_found_at_its_three_sizes() -> None:
    sizes = {
        variant: family("harmon", {"variant": variant, "dropout": "0.1"}).image_size
        for variant in ("Tiny", "0.5B", "1.5B")
    }
    assert sizes == {"Tiny": 32, "0.5B": 512, "1.5B": 512}


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="use one of harmon"):
        family("show-o", {})


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"use one of Tiny, 0\.5B, 1\.5B"):
        family("harmon", {"variant": "7B", "dropout": "0.1"})
