"""How a family, map, benchmark, source or backend is found by name: the built-in ones, and those of installed packages.

A package of one's own adds one through an entry point, e.g. in its pyproject.toml:

    [project.entry-points."unimrg.families"]
    toy = "my_package.toy:ToyFamily"

A job then names it as `spec.model.custom: {name: toy, settings: {…}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from unimrg_api.errors import UserError

Builtins = Mapping[str, str]
"""Name → `module:object`, imported when first asked for."""


def names(group: str, builtin: Builtins) -> list[str]:
    """Return every known name of a group, the built-in ones first."""
    return list(dict.fromkeys([*builtin, *(point.name for point in entry_points(group=group))]))


def package_of(group: str, name: str) -> str | None:
    """Return name and version of the installed package that brings `name`; None for what is built in."""
    found = (point.dist for point in entry_points(group=group, name=name))
    return next((f"{package.name} {package.version}" for package in found if package is not None), None)


def load(group: str, builtin: Builtins, name: str, *, field: str) -> Any:
    """Return the object that is registered under `name` in `group`, e.g. `unimrg.families`.

    Raises UserError (64) that names `field`, the place in the job, and lists the known names.
    """
    place = builtin.get(name)
    if place is not None:
        module, _, attribute = place.partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever the package does when it is imported
            raise UserError(
                f"{field}: {name!r} is installed as {point.value}, which cannot be imported: {error}",
                remedy="correct the entry point of that package, or install it again",
            ) from error
    raise UserError(
        f"{field}: there is no {name!r} among {', '.join(names(group, builtin))}",
        remedy=f"use one of these, or install the package that has it as entry point of the group {group}",
    )
