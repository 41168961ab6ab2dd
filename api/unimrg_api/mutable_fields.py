"""The few fields of a job's spec that may change once it exists, and the rules by which an API server keeps the others.

A mutable field says when and how long a job runs, never what it trains or how
(docs/decisions/0012-a-spec-does-not-change.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unimrg_api.fields import FieldRule
from unimrg_api.introspection import Location, format_location, schema_at
from unimrg_api.job import JobSpec

MUTABLE_FIELDS: tuple[Location, ...] = (
    ("suspend",),
    ("queue", "priorityClass"),
    ("runPolicy", "maxRestarts"),
    ("runPolicy", "maxInfraRestarts"),
    ("runPolicy", "activeDeadlineSeconds"),
    ("runPolicy", "ttlSecondsAfterFinished"),
)
"""Places below `spec`."""


def without_mutable_fields(spec: dict[str, Any], location: Location = ()) -> dict[str, Any]:
    """Return a spec, as plain values, without what may change."""
    return {
        name: without_mutable_fields(value, (*location, name)) if isinstance(value, dict) else value
        for name, value in spec.items()
        if (*location, name) not in MUTABLE_FIELDS
    }


def transition_rules() -> Iterator[FieldRule]:
    """Yield the rules, asked of a spec and the one before it, that keep every other field as it is."""
    for location, cel in _unchanged():
        yield FieldRule(
            format_location(location),
            f"{format_location(location)} cannot be changed, for what has run would no longer be what the job says",
            "create a job with another name",
            lambda spec: True,  # only an API server sees both
            cel,
        )


def _unchanged(parent: Location = (), guard: str = "") -> Iterator[tuple[Location, str]]:
    """Yield the largest fields below a place that stay as they are as a whole, with the rule of each in CEL.

    `guard` is true where the place is missing. An optional field may not come or go either.
    """
    for name, schema in (schema_at(JobSpec, parent) or {})["properties"].items():
        location = (*parent, name)
        if location in MUTABLE_FIELDS:
            continue
        new, old = (f"{side}.{format_location(location)}" for side in ("self", "oldSelf"))
        optional = "default" in schema and schema["default"] is None
        partly = any(mutable[: len(location)] == location for mutable in MUTABLE_FIELDS)
        if optional or not partly:
            rule = f"has({new}) == has({old}) && (!has({new}) || {new} == {old})" if optional else f"{new} == {old}"
            rule = f"has({new}) == has({old})" if partly else rule
            yield location, f"{guard}({rule})" if guard else rule
        if partly:
            yield from _unchanged(location, f"{guard}!has({new}) || !has({old}) || " if optional else guard)
