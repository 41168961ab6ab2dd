"""The model families by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unimrg_api.plugins import load
from unimrg_trainer.models.base import Family

FAMILIES: dict[str, str] = {"harmon": "unimrg_trainer.models.harmon.family:HarmonFamily"}


def find_family(name: str, settings: Mapping[str, Any]) -> Family:
    """Return a family configured by the JSON of its member of `spec.model`.

    Raises UserError listing the known names, or naming the setting that the family does not take.
    """
    family: Family = load("unimrg.families", FAMILIES, name, field="spec.model")(settings)
    return family
