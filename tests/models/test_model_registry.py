"""Families are found by name and configured from a job's JSON, defaults filled in."""

from __future__ import annotations

from typing import Any

import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.sampling import SamplingSettings
from unimrg_trainer.models.registry import find_family

SIZES = {
    "harmon": {"Tiny": 32, "0.5B": 512, "1.5B": 512},
    "openuni": {"Tiny": 32, "B-512": 512, "L-512": 512},
    "showo": {"Tiny": 32, "VQ-256": 256, "VQ-512": 512, "CLIP-256": 256, "CLIP-512": 512},
}


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name, sizes in SIZES.items() for variant in sizes])
def test_every_size_is_found_by_its_name(name: str, variant: str) -> None:
    family: Any = find_family(name, {"variant": variant, "sampling": {"steps": 7}})
    assert (family.name, family.variant) == (name, variant)
    assert family.config.image_size == SIZES[name][variant]
    assert family.sampling.steps == 7
    assert family.sampling.guidance == {"harmon": 3.0, "openuni": 4.5, "showo": 5.0}[name]
    if name == "showo":
        assert (family.config.clip is not None) == (not variant.startswith("VQ"))


def test_settings_of_the_job_reach_the_family() -> None:
    sampling = {"steps": 5, "textSteps": 6, "diffusionSteps": 7, "guidance": "1.5", "guidanceSchedule": "Linear"}
    rate = {"mean": "0.9", "deviation": "0.1", "minimum": "0.5"}
    settings = {"variant": "Tiny", "dropout": "0.25", "maskRate": rate, "sampling": sampling}
    family = find_family("harmon", settings)
    assert isinstance(family, HarmonFamily)
    assert family.config.mar.dropout == 0.25
    assert (family.config.mask_mean, family.config.mask_deviation, family.config.mask_minimum) == (0.9, 0.1, 0.5)
    assert family.sampling == SamplingSettings(5, 6, 7, 1.5, "Linear")


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"spec\.model.*'unknown' among harmon, openuni, showo"):
        find_family("unknown", {})
