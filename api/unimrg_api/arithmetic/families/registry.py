"""The built-in families by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unimrg_api.arithmetic.families import harmon, openuni, showo
from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.sizes import harmon as harmon_sizes
from unimrg_api.sizes import openuni as openuni_sizes
from unimrg_api.sizes import showo as showo_sizes
from unimrg_api.spec_model import FamilySpec, HarmonSpec, OpenUniSpec, ShowOSpec


def _harmon(spec: HarmonSpec) -> FamilyArithmetic:
    config = harmon_sizes.config_of(spec.variant, float(spec.dropout))
    return harmon.arithmetic(harmon_sizes.with_mask_rate(config, spec.mask_rate))


_FAMILIES: dict[type[FamilySpec], Callable[[Any], FamilyArithmetic]] = {
    HarmonSpec: _harmon,
    OpenUniSpec: lambda spec: openuni.arithmetic(openuni_sizes.VARIANTS[spec.variant]()),
    ShowOSpec: lambda spec: showo.arithmetic(showo_sizes.config_of(spec.variant)),
}


def arithmetic_of(spec: FamilySpec) -> FamilyArithmetic:
    """Return what is known of the family and size that a job names."""
    return _FAMILIES[type(spec)](spec)
