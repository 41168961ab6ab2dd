"""The page docs/reference/job.md: every field of a job and every rule, from the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.fields import CelRule, Spec
from unimrg_api.introspection import View, fields_of
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.locality import CLUSTER_RULES
from unimrg_api.spec_training import RECIPES

_INTRODUCTION = f"""# The job, field by field

<!-- Written by `python -m unimrg_api.generate` from the models; edit the docstrings there. -->

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
    for path, view in _rows(UniMRGJob, ""):
        cells = (f"`{path}`", _type(view), _default(view), view.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Objectives of a method", "", "| Method | Objectives and weights |", "|---|---|"]
    for method, recipe in RECIPES.items():
        lines.append(f"| `{method}` | {', '.join(f'{name} {weight}' for name, weight in recipe.items())} |")
    lines += ["", _BETWEEN_FIELDS, "| Where | What is wrong, and what to write instead |", "|---|---|"]
    lines += _rule_rows((f"{path}{rule.path}", rule) for path, rule in _rules(UniMRGJob, ""))
    lines += ["", _ON_A_CLUSTER, "| Where | What is wrong, and what to write instead |", "|---|---|"]
    lines += _rule_rows((f"spec.{rule.path}", rule) for rule in CLUSTER_RULES)
    return "\n".join(lines) + "\n"


_BETWEEN_FIELDS = """## Rules between fields

"""

_ON_A_CLUSTER = """## What a cluster refuses

A laptop takes these jobs; `unimrg validate` names them in notes. The spec of a job on a cluster cannot be changed.
"""


def _rules(model: type[Spec], prefix: str) -> Iterator[tuple[str, CelRule]]:
    """Yield the rules of a model and of all that it holds, each with the path of its model."""
    yield from ((prefix, rule) for rule in model.cel)
    for name, view in fields_of(model).items():
        inner = view.entry if view.kind == "list" else view
        if inner is not None and inner.model is not None:
            yield from _rules(inner.model, f"{prefix}{name}[]." if view.kind == "list" else f"{prefix}{name}.")


def _rule_rows(rules: Iterable[tuple[str, CelRule]]) -> list[str]:
    """Return a row for each message, with every path that it is said of."""
    paths: dict[str, list[str]] = {}
    for path, rule in rules:
        paths.setdefault(rule.message, []).append(f"`{path}`")
    return [f"| {', '.join(places)} | {message[:1].upper()}{message[1:]}. |" for message, places in paths.items()]


def _rows(model: type[Spec], prefix: str) -> Iterator[tuple[str, View]]:
    for name, view in fields_of(model).items():
        path = f"{prefix}{name}"
        yield path, view
        inner = view.entry if view.kind == "list" else view
        if inner is not None and inner.model is not None:
            yield from _rows(inner.model, f"{path}[]." if view.kind == "list" else f"{path}.")


def _type(view: View) -> str:
    if view.kind == "model":
        return "object"
    if view.kind == "mapping":
        return "map of texts"
    if view.kind == "json":
        return "any JSON object"
    if view.kind == "list":
        entry = "object" if view.entry is None or view.entry.kind == "model" else _type(view.entry)
        count = f"{view.min_length} to {view.max_length}" if view.min_length else f"at most {view.max_length}"
        return f"list ({count}) of {entry}"
    if view.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in view.choices)
    if view.kind == "int":
        return f"integer, {view.minimum} to {view.maximum}"
    if view.is_decimal:
        return "decimal string"
    return "URI" if view.is_uri else f"text, at most {view.max_length} characters"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(by_alias=True, exclude_none=True) if isinstance(value, Spec) else value


def _default(view: View) -> str:
    if view.required:
        return "required"
    if view.default is None:
        return "–"
    if isinstance(view.default, Spec):
        return "see its fields"
    value: Any = _plain(view.default)
    return f"`{value}`" if view.kind in ("choice", "int") else f"`{canonical_json(value)}`"
