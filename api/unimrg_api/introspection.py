"""Places in a job: how they are written, what stands there, and what the models' schema says about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from unimrg_api.fields import DECIMALS, RULES, URI_PATTERN, Spec
from unimrg_api.unions import first_member

Schema = dict[str, Any]
"""A JSON schema, as pydantic gives it."""

Location = tuple[str | int, ...]
"""Where something is in a job: field names as written there, and list indices."""


def format_location(location: Sequence[str | int]) -> str:
    """Return a place as people write it: `spec.objectives[1].weight`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_location(path: str) -> Location:
    """Return the parts of a path: the way back from `format_location`."""
    if not path:
        return ()
    parts = re.sub(r"\[([0-9]+)\]", r".[\1]", path).split(".")
    return tuple(int(part[1:-1]) if re.fullmatch(r"\[[0-9]+\]", part) else part for part in parts)


def value_at(value: Any, location: Location) -> Any:
    """Return what plain values hold at a place, None if there is no such place."""
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def resolved(node: Schema, definitions: Mapping[str, Schema], path: str) -> Schema:
    """Put what a node refers to in its place and take "or null" off; what the node itself says wins.

    A constant becomes the only choice.
    """
    node = dict(node)
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            inner = definitions[node.pop("$ref").removeprefix("#/$defs/")]
        else:
            options = [option for option in node.pop("anyOf") if option != {"type": "null"}]
            if len(options) != 1:
                raise TypeError(f"{path}: a custom resource has no union of {len(options)} types")
            (inner,) = options
        rules = [*inner.get(RULES, ()), *node.get(RULES, ())]  # those of both count
        node = {**inner, **node, **({RULES: rules} if rules else {})}
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    return node


@cache
def _definitions(root: type[Spec]) -> Schema:
    schema = root.model_json_schema(by_alias=True)
    return {**schema.pop("$defs", {}), "": schema}


def schema_at(root: type[Spec], location: Location) -> Schema | None:
    """Return the JSON schema of a place in a model, its references followed; None if there is no such place."""
    definitions = _definitions(root)
    found: Any = definitions[""]
    for part in location:
        if isinstance(part, int):
            found = found.get("items")
        else:
            entries = (found.get("additionalProperties"), *found.get("patternProperties", {}).values())
            found = found.get("properties", {}).get(part) or next((entry for entry in entries if entry), None)
        if not isinstance(found, dict):
            return None
        found = resolved(found, definitions, format_location(location))
    return dict(found)


def is_required(root: type[Spec], location: Location) -> bool:
    """Whether a field must be given wherever what it belongs to is."""
    parent = schema_at(root, location[:-1]) if location else None
    return parent is not None and location[-1] in parent.get("required", ())


def fields(root: type[Spec], location: Location = ()) -> Iterator[tuple[Location, Schema]]:
    """Yield every field at and below a place with its schema; the entries of a list have the index 0."""
    schema = schema_at(root, location) or {}
    for name in schema.get("properties", {}):
        place = (*location, name)
        found = schema_at(root, place) or {}
        yield place, found
        yield from fields(root, (*place, 0) if found["type"] == "array" else place)


def placeholder(root: type[Spec], location: Location) -> Any:
    """Return some value that is right by itself, to look past a wrong one."""
    schema: Mapping[str, Any] = schema_at(root, location) or {}
    kind, pattern = schema.get("type"), schema.get("pattern")
    if kind == "object":
        names = dict.fromkeys([*first_member(schema), *schema.get("required", ())])
        return {name: placeholder(root, (*location, name)) for name in names}
    if kind == "array":
        return [placeholder(root, (*location, 0))] * schema.get("minItems", 0)
    if kind == "integer":
        return schema.get("minimum", 0)
    if kind == "boolean":
        return False
    return (
        schema["enum"][0]
        if "enum" in schema
        else {URI_PATTERN: "file://x"}.get(str(pattern), "0.5" if pattern in DECIMALS else "x")
    )
