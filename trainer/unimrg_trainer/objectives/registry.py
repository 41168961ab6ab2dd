"""Objectives by the name that a job gives them: Understanding, and the generation of each map."""

from __future__ import annotations

from collections.abc import Iterable

from unimrg_api.spec_training import Prompts
from unimrg_trainer.maps.registry import MAPS, find_map
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.generation import Generation
from unimrg_trainer.objectives.understanding import Understanding


def built_in(prompts: Prompts = "Listed") -> dict[str, Objective]:
    """Name → objective, in the order in which losses are listed everywhere."""
    generations = (Generation(find_map(name), prompts=prompts) for name in MAPS)
    objectives: list[Objective] = [Understanding(), *generations]
    return {objective.name: objective for objective in objectives}


def objective(name: str, prompts: Prompts = "Listed") -> Objective:
    """Return the objective `name`: a built-in one, or the generation of a map that a package brings; `prompts` says
    what asks for maps (`spec.training.prompts`).

    Raises UserError listing the known maps.
    """
    known = built_in(prompts)
    return known[name] if name in known else Generation(find_map(name), name, prompts)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort objectives: the built-in ones in their order, then the others by name."""
    known = list(built_in())
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
