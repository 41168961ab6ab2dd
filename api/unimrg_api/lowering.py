"""Turns a model's JSON schema into the structural schema that Kubernetes takes for a custom resource.

What has no counterpart there raises TypeError. That every list and text has an upper bound is tested on the schema of
the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from unimrg_api.fields import LIST_KEYS, LIST_TYPE, PRESERVE, RULES

Schema = dict[str, Any]

_ALWAYS = ("type", "description", "default", RULES)
_KEYWORDS = {
    "string": (*_ALWAYS, "enum", "pattern", "minLength", "maxLength"),
    "integer": (*_ALWAYS, "minimum", "maximum"),
    "array": (*_ALWAYS, "items", "minItems", "maxItems", LIST_TYPE, LIST_KEYS),
    "object": (*_ALWAYS, "properties", "required", "additionalProperties", "maxProperties", PRESERVE),
}
"""For each type: the keywords of its schema, in the order in which they are written."""


def structural_schema(model: type[BaseModel], *, defaults: bool) -> Schema:
    """Return the structural schema of a model.

    `defaults` says whether it names the defaults: the API server fills in those of a spec; a status has one writer,
    which writes them itself. Raises TypeError for what such a schema cannot say.
    """
    schema = model.model_json_schema(by_alias=True)
    return _lower(schema, schema.pop("$defs", {}), defaults, model.__name__)


def _lower(node: Schema, definitions: Mapping[str, Schema], defaults: bool, path: str) -> Schema:
    node = resolved(node, definitions, path)
    node.pop("title", None)
    if isinstance(node.get("additionalProperties"), bool):
        del node["additionalProperties"]  # strict field validation refuses unknown fields, unless they are preserved
    if not defaults or node.get("default", ...) is None:
        node.pop("default", None)
    unknown = set(node) - set(_KEYWORDS.get(node.get("type", ""), ()))
    if unknown or "type" not in node:
        raise TypeError(f"{path} ({node.get('type')}): a custom resource has no {', '.join(sorted(unknown))}")
    if "default" in node:
        node["default"] = without_nulls(node["default"])
    if node["type"] == "array":
        node["items"] = _lower(node["items"], definitions, defaults, f"{path}[]")
        node.setdefault(LIST_TYPE, "atomic")
    if "properties" in node:
        fields = node["properties"].items()
        node["properties"] = {name: _lower(item, definitions, defaults, f"{path}.{name}") for name, item in fields}
    if "additionalProperties" in node:
        node["additionalProperties"] = _lower(node["additionalProperties"], definitions, defaults, f"{path}.*")
    return {keyword: node[keyword] for keyword in _KEYWORDS[node["type"]] if keyword in node}


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


def without_nulls(value: Any) -> Any:
    """Leave out what a default does not set: absence is not null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
