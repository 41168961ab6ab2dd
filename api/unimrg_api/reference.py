"""Writes docs/reference/job.md, the table of every field of a job, from the models.

`python -m unimrg_api.reference` prints it, `--write FILE` (default docs/reference/job.md) writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.fields import Spec
from unimrg_api.introspection import View, fields_of
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.spec_training import RECIPES

DEFAULT_PATH = Path("docs/reference/job.md")

_INTRODUCTION = f"""# The job, field by field

<!-- Written by `python -m unimrg_api.reference --write` from the models; edit the docstrings there. -->

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
    lines += ["", "## Rules between fields", ""]
    lines += [f"- {rule}" for rule in _RULES]
    return "\n".join(lines) + "\n"


_RULES = (
    "`spec.training.batch.rowsPerObjective` is a multiple of `cohortRows`.",
    "`spec.training.schedule.warmupSteps` is at most `horizonSteps`, and `spec.training.stopStep` too.",
    "`spec.objectives` lists each objective once, and not all weights are zero.",
    "With `spec.method: UniMRG`, `spec.objectives` has Understanding and at least one of Pixel, Depth, "
    "Segmentation with a weight above zero.",
    "`spec.stages.evaluate.benchmarks` names each benchmark once, and at least one unless `mode` is Never.",
)


def main(arguments: list[str]) -> None:
    """Print the page, or write it."""
    if arguments[:1] == ["--write"]:
        path = Path(arguments[1]) if len(arguments) > 1 else DEFAULT_PATH
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


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
        return f"map of texts, at most {view.max_length}"
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


def _default(view: View) -> str:
    if view.required:
        return "required"
    if view.default is None:
        return "–"
    if isinstance(view.default, Spec):
        return "see its fields"
    value: Any = view.default
    return f"`{value}`" if view.kind in ("choice", "int") else f"`{canonical_json(value)}`"


if __name__ == "__main__":
    main(sys.argv[1:])
