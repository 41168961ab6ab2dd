"""The model families by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unimrg_api.errors import UserError
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.harmon.family import HarmonFamily

FAMILIES: dict[str, Callable[[Mapping[str, Any]], Family]] = {
    "harmon": lambda settings: HarmonFamily(settings["variant"], float(settings["dropout"]))
}
"""Name → constructor from the settings of the job."""


def family(name: str, settings: Mapping[str, Any]) -> Family:
    """Return a family with its settings. Raises UserError listing the known names."""
    if name not in FAMILIES:
        raise UserError(f"spec.model: there is no model family {name!r}", remedy=f"use one of {', '.join(FAMILIES)}")
    return FAMILIES[name](settings)
