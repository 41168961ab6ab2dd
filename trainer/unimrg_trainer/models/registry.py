"""The model families by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Callable

from unimrg_api.errors import UserError
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.harmon.family import HarmonFamily

FAMILIES: dict[str, Callable[[str, float], Family]] = {"Harmon": HarmonFamily}
"""Name → constructor (variant, dropout)."""


def family(name: str, variant: str, dropout: float) -> Family:
    """Return a family at one size. Raises UserError listing the known names."""
    if name not in FAMILIES:
        raise UserError(
            f"spec.model.name: there is no model family {name!r}", remedy=f"use one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name](variant, dropout)
