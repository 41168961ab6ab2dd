"""What a job with a built-in family may say about the parts of its model: rules of `JobSpec`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from unimrg_api.fields import FieldRule
from unimrg_api.spec_model import ANSWERING, RECIPES, FamilySpec
from unimrg_api.spec_training import ObjectiveSpec

if TYPE_CHECKING:
    from unimrg_api.job import JobSpec

_ZERO = "matches('^[0.]+$')"


def part_rules(name: str, member: str, family: type[FamilySpec]) -> tuple[FieldRule, FieldRule]:
    """Return the rules that `training.parts` names parts of a family, and leaves something to train.

    `name` is how messages call the family, `member` how a job does.
    """
    return _known(name, member, family), _trained(member, family)


def _known(name: str, member: str, family: type[FamilySpec]) -> FieldRule:
    return FieldRule(
        "training.parts",
        f"{name} has no part of such a name",
        f"its parts are {', '.join(family.parts)}",
        lambda spec: (
            getattr(spec.model, member) is None or all(part.name in family.parts for part in spec.training.parts)
        ),
        f"!has(self.model.{member}) || self.training.parts.all(part, part.name in {list(family.parts)})",
    )


def _trained(member: str, family: type[FamilySpec]) -> FieldRule:
    """What the objectives train follows from the method, whose own rules are about them; only RecA leaves a choice."""

    def trained(spec: JobSpec) -> list[str]:
        settings = getattr(spec.model, member)
        names = {name for name, weight in spec.resolved_objectives().items() if weight}
        answers, maps = ANSWERING in names, names != {ANSWERING}
        return [] if settings is None else settings.trained_parts(answers=answers, maps=maps)

    def holds(spec: JobSpec) -> bool:
        parts = trained(spec)
        frozen = {part.name for part in spec.training.parts if float(part.learning_rate_scale) == 0}
        return not parts or not frozen.issuperset(parts)

    def all_frozen(parts: Iterable[str]) -> str:
        zero = f"part.learningRateScale.{_ZERO}"
        frozen = {part: f"self.training.parts.exists(part, part.name == '{part}' && {zero})" for part in parts}
        for part, sizes in family.missing_parts.items():
            frozen[part] = f"({model}.variant.startsWith('{sizes}') || {frozen[part]})"
        return " && ".join(frozen.values())

    model = f"self.model.{member}"
    asked = f"{ObjectiveSpec.key_in_cel('item')} == '{ANSWERING}' && !item.weight.{_ZERO}"
    by_default = str(ANSWERING in family.recipes.get("RecA", RECIPES["RecA"])).lower()
    answers = f"self.method != 'RecA' || (has(self.objectives) ? self.objectives.exists(item, {asked}) : {by_default})"
    apart = {*family.parts_of_answers, *family.parts_of_maps}
    shared = [part for part in family.parts if part not in apart]
    reached = {"true": shared, answers: family.parts_of_answers, "self.method != 'SFT'": family.parts_of_maps}
    learns = [f"(({when}) && !({all_frozen(parts)}))" for when, parts in reached.items() if parts]
    return FieldRule(
        "training.parts",
        "everything that the job's objectives train is frozen",
        'leave a part that they train with a learningRateScale above "0"',
        holds,
        f"!has({model}) || {' || '.join(learns)}",
        advice=lambda spec: f'leave one of {", ".join(trained(spec))} with a learningRateScale above "0"',
    )
