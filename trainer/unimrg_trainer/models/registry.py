"""The model families by the name that a job gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from unimrg_api.plugins import load
from unimrg_trainer.models.base import Family, FamilyFactory

FAMILIES: dict[str, str] = {
    "harmon": "unimrg_trainer.models.harmon.family:HarmonFamily",
    "openuni": "unimrg_trainer.models.openuni.family:OpenUniFamily",
    "showo": "unimrg_trainer.models.showo.family:ShowOFamily",
}


def find_family(name: str, settings: Mapping[str, Any]) -> Family:
    """Return a family configured by the JSON of its member of `spec.model`.

    Raises UserError listing the known names, or naming the setting that the family does not take.
    """
    return cast(FamilyFactory, load("unimrg.families", FAMILIES, name, field="spec.model"))(settings)
