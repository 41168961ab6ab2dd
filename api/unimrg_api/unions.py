"""Choices of a job between named members: exactly one of them, or one of an installed package under `custom`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from pydantic.alias_generators import to_snake

from unimrg_api.fields import PRESERVE, RULES, FieldRule, Spec, Violation, refuse


class OneOf(Spec):
    """A choice between several members, each with settings of its own: exactly one of `members` is given."""

    members: ClassVar[tuple[str, ...]]
    """Names of the members as in a job; each is a field that may be absent. `custom` is one of an installed package."""

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        names = ", ".join(cls.members)
        rule = FieldRule(
            "",
            f"exactly one of {names} must be given",
            f"write one of them, e.g. {cls.members[0]}",
            lambda entry: len(entry._given()) == 1,
            f"[{', '.join(f'has(self.{member})' for member in cls.members)}].exists_one(given, given)",
        )
        cls.rules = (rule, *cls.rules)

    def _given(self) -> list[str]:
        return [member for member in self.members if self._settings(member) is not None]

    def _settings(self, member: str) -> Any:
        return getattr(self, to_snake(member))

    def selected(self) -> tuple[str, dict[str, Any]]:
        """Return the name of what is chosen and its settings as JSON, every default written out.

        For `custom` these are the name and the settings in it.
        """
        (member,) = self._given()
        settings = self._settings(member).model_dump(mode="json", by_alias=True, exclude_none=True)
        return (settings["name"], settings["settings"]) if member == "custom" else (member, settings)

    @property
    def key(self) -> str:
        """Name of what is chosen."""
        return self.selected()[0]

    @classmethod
    def key_in_cel(cls, entry: str) -> str:
        """Return `key` of the variable `entry` in CEL."""
        names = "".join(f"has({entry}.{member}) ? '{member}' : " for member in cls.members if member != "custom")
        return f"({names}has({entry}.custom) ? {entry}.custom.name : '')"


def first_member(schema: Mapping[str, Any]) -> list[str]:
    """Return the first member of a union by its JSON schema; none if it is no union."""
    found = re.match(r"\[has\(self\.(\w+)\)", "".join(rule["rule"] for rule in schema.get(RULES, ())))
    return [found[1]] if found else []


def each_once(path: str, entry: type[OneOf], guard: str = "{}") -> FieldRule:
    """Return the rule that no two entries of the list at `path` have the same name; in CEL, `guard` goes around it."""

    def holds(model: Any) -> bool:
        names = [item.key for item in getattr(model, path) or ()]
        return len(set(names)) == len(names)

    once = f"self.{path}.exists_one(other, {entry.key_in_cel('one')} == {entry.key_in_cel('other')})"
    rule = guard.format(f"self.{path}.all(one, {once})")
    return FieldRule(path, "two entries have the same name", "name each once", holds, rule)


CUSTOM_PATTERN = r"^[A-Za-z][A-Za-z0-9-]*$"
CustomName = Annotated[str, Field(pattern=CUSTOM_PATTERN, max_length=63)]
"""Name of an entry point of an installed package."""


def _json(value: Any) -> Any:
    """Return JSON as an API server keeps it: whole numbers have no decimal point."""
    fault = ""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _json(item) for key, item in value.items()}
        fault = "names of settings must be texts"
    elif isinstance(value, list):
        return [_json(item) for item in value]
    elif isinstance(value, float) and not math.isfinite(value):
        fault = "NaN and infinity are no numbers of JSON"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        fault = "whole numbers must fit 64 bits"
    refuse([Violation("", fault, "correct this value")] if fault else [])
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


class CustomSpec(Spec):
    """Something of an installed package, which names it in an entry point (group: see the field)."""

    name: CustomName
    """Name of the entry point: letters, digits and dashes, from a letter on."""
    settings: Annotated[dict[str, Any], AfterValidator(_json), Field(json_schema_extra={PRESERVE: True})] = Field(
        default={}
    )
    """Its settings, any JSON; the package checks them when the job starts."""
