"""Writes the files that follow from the models: the page docs/reference/job.md and the custom resource.

python -m tools.generate
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tools.crd import crd_yaml, without_nulls
from unimrg_api.digests import canonical_json
from unimrg_api.fields import DECIMALS, RULES, URI_PATTERN
from unimrg_api.introspection import Location, Schema, fields, format_location, is_required, schema_at
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.locality import CLUSTER_RULES
from unimrg_api.mutable_fields import MUTABLE_FIELDS
from unimrg_api.spec_model import RECIPES, OpenUniSpec

_INTRODUCTION = f"""# The job, field by field

<!-- Written by `python -m tools.generate` from the models; edit the docstrings there. -->

A job is one YAML (or JSON) document of `apiVersion: {API_VERSION}` and `kind: {KIND}`.
`unimrg validate FILE` checks it and names every problem with its line.

- Fields that are not listed here are refused, and so is `null`: leave an optional field out instead.
- **Numbers that need not be whole are decimal strings**, always in quotes: `"1"`, `"0.02"`; rates may be
  written as `"1e-5"`. Kubernetes objects hold no floating-point numbers.
- URIs are `s3://bucket/prefix`, `file:///absolute/path`, or `file://path` relative to the folder of the job's
  file. Characters that a URI cannot hold are percent-encoded (`%20` is a space).
- `[]` in a path stands for every entry of a list.
"""


def reference() -> str:
    """Return the page as Markdown."""
    lines = [_INTRODUCTION, "| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    between = []
    for place, schema in [((), schema_at(UniMRGJob, ()) or {}), *fields(UniMRGJob)]:
        path = _path(place)
        if place:
            cells = (f"`{path}`", _type(schema), _default(place, schema), schema.get("description", ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        inner = (schema_at(UniMRGJob, (*place, 0)) or {}) if schema.get("type") == "array" else schema
        if inner.get("type") == "object":
            between += [(_path((*place, 0)) if inner is not schema else path, rule) for rule in inner.get(RULES, ())]
    lines += ["", "## Objectives of a method", "", "| Method | Objectives and weights |", "|---|---|"]
    recipes = [(f"`{method}`", recipe) for method, recipe in RECIPES.items()]
    recipes += [(f"`{method}` of OpenUni", recipe) for method, recipe in OpenUniSpec.recipes.items()]
    for method, recipe in recipes:
        lines.append(f"| {method} | {', '.join(f'{name} {weight}' for name, weight in recipe.items())} |")
    lines += ["", "## Rules between fields\n", "| Where | What is wrong, and what to write instead |", "|---|---|"]
    lines += _rule_rows(between)
    mutable = ", ".join(f"`{_path(('spec', *place))}`" for place in MUTABLE_FIELDS)
    lines += ["", _ON_A_CLUSTER.format(mutable), "| Where | What is wrong, and what to write instead |", "|---|---|"]
    lines += _rule_rows(("spec", rule.to_json()) for rule in CLUSTER_RULES)
    return "\n".join(lines) + "\n"


_ON_A_CLUSTER = """## What a cluster refuses

A laptop takes these jobs; `unimrg validate` names them in notes. The spec of a job on a cluster cannot be changed,
except for {}.
"""


def _path(place: Location) -> str:
    return format_location(place).replace("[0]", "[]")


def _rule_rows(rules: Iterable[tuple[str, dict[str, str]]]) -> list[str]:
    """Return a row for each message, with every path that it is said of."""
    paths: dict[str, list[str]] = {}
    for path, rule in rules:
        paths.setdefault(rule["message"], []).append(f"`{path}{rule.get('fieldPath', '')}`")
    return [f"| {', '.join(places)} | {message[:1].upper()}{message[1:]}. |" for message, places in paths.items()]


def _type(schema: Schema) -> str:
    kind, pattern = schema["type"], schema.get("pattern")
    if kind == "object":
        entries = schema.get("additionalProperties")
        return "object" if "properties" in schema else "any JSON object" if entries is True else "map of texts"
    if kind == "array":
        entry = "object" if "$ref" in schema["items"] else _type(schema["items"])
        least = f"{schema['minItems']} to" if "minItems" in schema else "at most"
        return f"list ({least} {schema['maxItems']}) of {entry}"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if kind == "boolean":
        return "`true` or `false`"
    if kind == "integer":
        return f"integer, {schema['minimum']} to {schema['maximum']}"
    if pattern in DECIMALS:
        return "decimal string"
    return "URI" if pattern == URI_PATTERN else f"text, at most {schema['maxLength']} characters"


def _default(place: Location, schema: Schema) -> str:
    value = schema.get("default")
    if is_required(UniMRGJob, place):
        return "required"
    if value is None:
        return "–"
    if "properties" in schema:
        return "see its fields"
    return (
        f"`{value}`" if "enum" in schema or schema["type"] == "integer" else f"`{canonical_json(without_nulls(value))}`"
    )


FILES: dict[str, Callable[[], str]] = {"docs/reference/job.md": reference, "api/unimrg_api/crd.yaml": crd_yaml}
"""Every generated file, relative to the repository's root, and what writes its text."""

if __name__ == "__main__":
    for path, text in FILES.items():
        (Path(__file__).parents[1] / path).write_text(text(), encoding="utf-8")
