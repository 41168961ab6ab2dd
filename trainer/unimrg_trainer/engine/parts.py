"""Which parameters train, at which share of the learning rate: by the parts of the model that the family names.

A parameter is frozen because the job freezes its part, or because no objective of the job reaches it
(docs/method/recipe.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from unimrg_api.errors import UserError
from unimrg_api.spec_training import PartSpec
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.base import Objective


@dataclass(frozen=True)
class Part:
    """A part of a model, with the number of elements of each of its parameters by name."""

    name: str
    scale: float
    """Factor of the learning rate; 0: frozen by the job."""
    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    """Frozen by the job, or because no objective reaches them."""

    def freeze(self, module: nn.Module) -> None:
        """Set for this part's parameters of `module` whether they train."""
        for name in (*self.trained, *self.frozen):
            module.get_parameter(name).requires_grad_(name in self.trained)


def parts_of(
    module: nn.Module, family: Family, objectives: Sequence[Objective], settings: Sequence[PartSpec]
) -> list[Part]:
    """Return every part of `module`, in the family's order. Raises UserError for a part that the family does not have,
    and where nothing is left to train."""
    check_parts(family, settings)
    unreached = family.frozen(objectives)
    scales = {part.name: float(part.learning_rate_scale) for part in settings}
    parts = {name: Part(name, scales.get(name, 1.0), {}, {}) for name in family.parts()}
    for name, parameter in module.named_parameters():
        part = parts[part_of(family, name)]
        is_frozen = name in unreached or part.scale == 0.0
        target = part.frozen if is_frozen else part.trained
        assert isinstance(target, dict)
        target[name] = parameter.numel()
    if not any(part.trained for part in parts.values()):
        raise UserError(
            "spec.training.parts freezes everything that this job's objectives train",
            remedy='leave a part with a learningRateScale above "0"',
        )
    return list(parts.values())


def rate_scales(parts: Sequence[Part]) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter that trains."""
    return {name: part.scale for part in parts for name in part.trained}


def part_of(family: Family, name: str) -> str:
    """Return the part that a parameter belongs to: the one whose prefix of its name is longest."""
    found = [
        (len(prefix), part)
        for part, prefixes in family.parts().items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    if not found:
        raise LookupError(f"{family.name} names no part for its parameter {name}")
    return max(found)[1]


def check_parts(family: Family, settings: Sequence[PartSpec]) -> None:
    """Raise UserError for a part that the family does not have."""
    known = family.parts()
    for index, part in enumerate(settings):
        if part.name not in known:
            raise UserError(
                f"spec.training.parts[{index}].name is {part.name!r}, which is no part of {family.name}",
                remedy=f"its parts are {', '.join(known)}",
            )


def parts_table(parts: Sequence[Part]) -> str:
    """Return a table of the parts with their learning rates and numbers of parameters."""
    lines = [f"{'part':<24}{'learning rate':>14}{'trained':>16}{'frozen':>16}"]
    for part in parts:
        rate = f"× {part.scale:g}" if part.trained else "frozen" if part.scale == 0 else "not reached"
        trained, frozen = sum(part.trained.values()), sum(part.frozen.values())
        lines.append(f"{part.name:<24}{rate:>14}{trained:>16,}{frozen:>16,}")
        if part.trained and part.frozen:
            lines.append(f"  no objective of this job reaches {', '.join(sorted(part.frozen))}")
    return "\n".join(lines)
