"""Turns a model's JSON schema into the structural schema that Kubernetes takes for a custom resource.

What has no counterpart there is refused loudly, so that a model which cannot be a custom resource is noticed when
it is written and not when somebody installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from unimrg_api.fields import LIST_KEYS, LIST_TYPE, PRESERVE, RULES

Schema = dict[str, Any]

_ALWAYS = ("type", "description", "default", RULES)
_WORDS = {
    "string": (*_ALWAYS, "enum", "pattern", "minLength", "maxLength"),
    "integer": (*_ALWAYS, "minimum", "maximum"),
    "array": (*_ALWAYS, "items", "minItems", "maxItems", LIST_TYPE, LIST_KEYS),
    "object": (*_ALWAYS, "properties", "required", "additionalProperties", "maxProperties", PRESERVE),
}
"""For each type: what its schema may say, in the order in which it is written."""


class NotLowerableError(TypeError):
    """A model says something that the schema of a custom resource cannot say."""


def structural_schema(model: type[BaseModel], *, defaults: bool) -> Schema:
    """Return the structural schema of a model.

    `defaults` says whether it names the defaults: those of a spec are filled in by the API server; a status has
    one writer, who fills them in himself. Raises NotLowerableError.
    """
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    return _Lowering(definitions, defaults).lower(schema, model.__name__, ())


class _Lowering:
    """One pass over one model's JSON schema."""

    def __init__(self, definitions: Mapping[str, Schema], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def lower(self, node: Schema, path: str, within: tuple[str, ...]) -> Schema:
        """Return the structural schema of one node; `within` names the definitions that it lies in."""
        node, within = self._resolve(node, path, within)
        node.pop("title", None)
        if "const" in node:
            node["enum"] = [node.pop("const")]
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]  # unknown fields are refused by strict field validation
        if node.get(PRESERVE):
            node.pop("additionalProperties", None)
        if not self._defaults or node.get("default", ...) is None:
            node.pop("default", None)
        _check(node, path)
        if "description" in node:
            node["description"] = " ".join(node["description"].split())
        if "default" in node:
            node["default"] = _without_nulls(node["default"])
        if node["type"] == "array":
            node["items"] = self.lower(node["items"], f"{path}[]", within)
            node.setdefault(LIST_TYPE, "atomic")
        if "properties" in node:
            node["properties"] = {
                name: self.lower(item, f"{path}.{name}", within) for name, item in node["properties"].items()
            }
        if "additionalProperties" in node:
            node["additionalProperties"] = self.lower(node["additionalProperties"], f"{path}.*", within)
        return {word: node[word] for word in _WORDS[node["type"]] if word in node}

    def _resolve(self, node: Schema, path: str, within: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """Put what a node refers to in its place and take "or null" off; what the node itself says wins."""
        node = dict(node)
        while True:
            if "$ref" in node:
                name = node.pop("$ref").removeprefix("#/$defs/")
                if name in within:
                    raise NotLowerableError(f"{path}: {name} holds itself")
                within = (*within, name)
                node = _merged(self._definitions[name], node)
            elif "anyOf" in node:
                options = [option for option in node.pop("anyOf") if option != {"type": "null"}]
                if len(options) != 1:
                    raise NotLowerableError(f"{path}: a union of {len(options)} types")
                node = _merged(options[0], node)
            else:
                return node, within


def _merged(inner: Schema, node: Schema) -> Schema:
    """Return what a node says, and beyond that what it holds says; the rules of both count."""
    rules = [*inner.get(RULES, ()), *node.get(RULES, ())]
    return {**inner, **node, **({RULES: rules} if rules else {})}


def _check(node: Schema, path: str) -> None:
    """Raise NotLowerableError for what a structural schema cannot say, and for what has no bound."""
    kind = node.get("type")
    if kind not in _WORDS:
        raise NotLowerableError(f"{path}: the type {kind}")
    unknown = [word for word in node if word not in _WORDS[kind]]
    if unknown:
        raise NotLowerableError(f"{path}: this {kind} has {', '.join(unknown)}")
    values = isinstance(node.get("additionalProperties"), dict)
    if kind == "object" and ("properties" in node) + values + (PRESERVE in node) != 1:
        raise NotLowerableError(f"{path}: an object has either named fields, or values of one type, or unknown fields")
    bounded = {
        "string": "maxLength" in node or "enum" in node,
        "integer": True,
        "array": "maxItems" in node,
        "object": "maxProperties" in node or "properties" in node or PRESERVE in node,
    }
    if not bounded[kind]:
        raise NotLowerableError(f"{path}: this {kind} has no upper bound")
    if kind == "string" and not all(isinstance(value, str) for value in node.get("enum", ())):
        raise NotLowerableError(f"{path}: a choice between values that are no texts")


def _without_nulls(value: Any) -> Any:
    """Leave out what a default does not set: absence is not null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
