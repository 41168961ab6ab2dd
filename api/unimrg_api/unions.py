"""Choices of a job between named members: exactly one of them, or one of an installed package under `custom`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from unimrg_api.fields import PRESERVE, CelRule, Spec, Violation


class OneOf(Spec):
    """A choice between several members, each with settings of its own: exactly one of `members` is given."""

    members: ClassVar[tuple[str, ...]]
    """Names of the members as in a job; each is a field that may be absent. `custom` is one of an installed package."""

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        given = ", ".join(f"has(self.{member})" for member in cls.members)
        rule = CelRule(f"[{given}].exists_one(given, given)", "", f"{cls._exactly_one()}: write one of them")
        cls.cel = (rule, *cls.cel)

    @classmethod
    def _exactly_one(cls) -> str:
        return f"exactly one of {', '.join(cls.members)} must be given"

    def _given(self) -> list[str]:
        return [member for member in self.members if getattr(self, member) is not None]

    def selected(self) -> tuple[str, dict[str, Any]]:
        """Return the name of what is chosen and its settings as JSON, every default written out.

        For `custom` these are the name and the settings in it.
        """
        (member,) = self._given()
        settings = getattr(self, member).model_dump(mode="json", by_alias=True, exclude_none=True)
        return (settings["name"], settings["settings"]) if member == "custom" else (member, settings)

    def violations(self) -> Iterator[Violation]:
        """Exactly one member is given."""
        given = self._given()
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is"
            remedy = "leave out all but one" if given else f"add one, e.g. {self.members[0]}"
            yield Violation("", f"{self._exactly_one()}, and {found}", remedy, frozenset(self.members))


def repeated(path: str, names: list[str], involves: frozenset[str]) -> Iterator[Violation]:
    """Yield a violation at the list at `path` if two of its entries have the same name."""
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        first, again = (index for index, name in enumerate(names) if name == twice)
        message = f"entries {first} and {again} are both named {twice}"
        yield Violation(path, message, "name each once", involves)


def repeated_rule(path: str, name: str, guard: str = "{}") -> CelRule:
    """Return the twin of `repeated`; `name` is an entry's name in CEL, with ENTRY for the entry."""
    one, other = name.replace("ENTRY", "one"), name.replace("ENTRY", "other")
    rule = f"self.{path}.all(one, self.{path}.exists_one(other, {one} == {other}))"
    return CelRule(guard.format(rule), path, "two entries have the same name: name each once")


def name_in_cel(*members: str) -> str:
    """Return, in CEL, the name of the entry ENTRY of a list of unions of these members and `custom`."""
    names = "".join(f"has(ENTRY.{member}) ? '{member}' : " for member in members)
    return f"({names}has(ENTRY.custom) ? ENTRY.custom.name : '')"


CUSTOM_PATTERN = r"^[A-Za-z][A-Za-z0-9-]*$"
CustomName = Annotated[str, Field(pattern=CUSTOM_PATTERN, max_length=63)]
"""Name of an entry point of an installed package."""


def _json(value: Any) -> Any:
    """Return JSON as an API server keeps it: whole numbers have no decimal point."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise PydanticCustomError("no_json", "names of settings must be texts")
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise PydanticCustomError("no_json", "NaN and infinity are no numbers of JSON")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PydanticCustomError("no_json", "whole numbers must fit 64 bits")
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value


class CustomSpec(Spec):
    """Something of an installed package, which names it in an entry point (group: see the field)."""

    name: CustomName
    """Name of the entry point: letters, digits and dashes, from a letter on."""
    settings: Annotated[dict[str, Any], AfterValidator(_json), Field(json_schema_extra={PRESERVE: True})] = Field(
        default={}
    )
    """Its settings, any JSON; the package checks them when the job starts."""
