"""Objectives by the name they have in a job. A further objective is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from unimrg_api.errors import UserError
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.depth import Depth
from unimrg_trainer.objectives.pixel import Pixel
from unimrg_trainer.objectives.prompt_lists import Wording
from unimrg_trainer.objectives.segmentation import Segmentation
from unimrg_trainer.objectives.understanding import Understanding

OBJECTIVES: dict[str, Callable[[Wording], Objective]] = {
    "Understanding": lambda wording: Understanding(),
    "Pixel": Pixel,
    "Depth": Depth,
    "Segmentation": Segmentation,
}
"""Name → factory, in the order in which the losses are listed everywhere."""


def objective(name: str, wording: Wording = Wording.LIST) -> Objective:
    """Return the objective `name`. Raises UserError listing the known names."""
    if name not in OBJECTIVES:
        raise UserError(
            f"there is no objective {name!r}",
            remedy=f"known objectives: {', '.join(OBJECTIVES)}",
        )
    return OBJECTIVES[name](wording)
