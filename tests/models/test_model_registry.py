"""Families are found by name and configured from a job's JSON, defaults filled in."""

from __future__ import annotations

import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.sampling import SamplingSettings
from unimrg_trainer.models.openuni.family import OpenUniFamily
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.showo.family import ShowOFamily

SHOW_O = [
    ("Tiny", 32, True),
    *((f"{kind}-{size}", size, kind == "CLIP") for kind in ("VQ", "CLIP") for size in (256, 512)),
]


@pytest.mark.parametrize(("variant", "size"), [("Tiny", 32), ("0.5B", 512), ("1.5B", 512)])
def test_harmon_is_found_at_its_three_sizes(variant: str, size: int) -> None:
    family = find_family("harmon", {"variant": variant})
    assert isinstance(family, HarmonFamily)
    assert family.config.image_size == size
    assert family.config.mar.dropout == 0.1 and family.sampling.guidance == 3.0


@pytest.mark.parametrize(("variant", "size", "clip"), SHOW_O)
def test_show_o_is_found_at_its_five_sizes(variant: str, size: int, clip: bool) -> None:
    family = find_family("showo", {"variant": variant, "sampling": {"steps": 7, "guidance": "1.5"}})
    assert isinstance(family, ShowOFamily)
    assert (family.variant, family.config.image_size, family.config.clip is not None) == (variant, size, clip)
    assert (family.sampling.steps, family.sampling.guidance, family.sampling.temperature) == (7, 1.5, 1.0)


def test_settings_of_the_job_reach_the_family() -> None:
    sampling = {"steps": 5, "textSteps": 6, "diffusionSteps": 7, "guidance": "1.5", "guidanceSchedule": "Linear"}
    rate = {"mean": "0.9", "deviation": "0.1", "minimum": "0.5"}
    settings = {"variant": "Tiny", "dropout": "0.25", "maskRate": rate, "sampling": sampling}
    family = find_family("harmon", settings)
    assert isinstance(family, HarmonFamily)
    assert family.config.mar.dropout == 0.25
    assert (family.config.mask_mean, family.config.mask_deviation, family.config.mask_minimum) == (0.9, 0.1, 0.5)
    assert family.sampling == SamplingSettings(5, 6, 7, 1.5, "Linear")


@pytest.mark.parametrize(("variant", "size"), [("Tiny", 32), ("B-512", 512), ("L-512", 512)])
def test_openuni_is_found_at_its_three_sizes(variant: str, size: int) -> None:
    family = find_family("openuni", {"variant": variant, "sampling": {"steps": 7}})
    assert isinstance(family, OpenUniFamily)
    assert (family.config.variant, family.config.image_size) == (variant, size)
    assert (family.sampling.steps, family.sampling.guidance) == (7, 4.5)


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"spec\.model.*'unknown' among harmon, openuni, showo"):
        find_family("unknown", {})
