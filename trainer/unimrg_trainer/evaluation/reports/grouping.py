"""Puts runs into rows, one for each training whatever its seed, and rows into a block for each base model.

Trainings of one method that differ in more than their seed are *ablations* of the fullest of them, the method's
*reference*: the one with the most objectives and the most equal weights, of several the one with the most runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_model import RECIPES
from unimrg_trainer.checkpoint.identity import job_fields
from unimrg_trainer.evaluation.reports.runs import EvaluatedRun
from unimrg_trainer.evaluation.summary import Summary

BASE = "base"
_OBJECTIVES = "spec.objectives["


@dataclass(frozen=True, eq=False)
class Row:
    """Runs that differ in their seeds at most."""

    label: str
    runs: tuple[EvaluatedRun, ...]
    """By seed."""
    is_base: bool = False

    @property
    def method(self) -> str:
        """The method, or `base`."""
        return BASE if self.is_base else self.runs[0].summary.method

    @property
    def benchmarks(self) -> set[str]:
        """Names of what any of its runs was asked."""
        return {name for run in self.runs for name in run.summary.benchmarks}


@dataclass(frozen=True, eq=False)
class Ablation:
    """The reference of a method and what deviates from it."""

    method: str
    rows: tuple[Row, ...]
    """The reference first."""


@dataclass(frozen=True, eq=False)
class Block:
    """All that is known of one base model."""

    model: str
    rows: tuple[Row, ...]
    """The base first if there is one, then the reference of each method."""
    ablations: tuple[Ablation, ...]

    @property
    def all_rows(self) -> list[Row]:
        """Rows of all tables, each once."""
        return [*self.rows, *(row for ablation in self.ablations for row in ablation.rows[1:])]


def blocks_of(runs: Sequence[EvaluatedRun]) -> list[Block]:
    """Group runs. Raises UserError (CONFIGURATION) for two of the same training and seed, and where runs of one base
    model were scored differently, so that they cannot be compared."""
    models: dict[tuple[str, str], list[EvaluatedRun]] = {}
    known: dict[tuple[str, int], EvaluatedRun] = {}
    for run in sorted(runs, key=lambda run: not run.is_base):  # a run may be named as a base and again as one of many
        known.setdefault((run.summary.uid, run.summary.steps), run)
    for run in (run for run in runs if run in known.values()):
        models.setdefault((run.summary.model, str(_model(run).get("init") or "")), []).append(run)
    names = [model for model, _ in models]
    blocks = []
    for (model, init), of_model in models.items():
        _refuse_different_scoring(of_model)
        title = model if names.count(model) == 1 else f"{model} from {init or 'random weights'}"
        blocks.append(_block(title, of_model))
    return blocks


def _block(model: str, runs: list[EvaluatedRun]) -> Block:
    base = [run for run in runs if run.is_base]
    rows = [Row(BASE, _by_seed(base), is_base=True)] if base else []
    methods: dict[str, list[Row]] = {}
    for row in _rows(run for run in runs if not run.is_base):
        methods.setdefault(row.method, []).append(row)
    ablations = []
    for method in sorted(methods, key=lambda name: (list[str](RECIPES).index(name) if name in RECIPES else -1, name)):
        group = sorted(methods[method], key=_fullness, reverse=True)
        rows.append(replace(group[0], label=method))
        others = tuple(replace(row, label=_difference(group[0], row)) for row in group[1:])
        if others:
            ablations.append(Ablation(method, (replace(group[0], label=method), *others)))
    return Block(model, tuple(rows), tuple(ablations))


def _rows(runs: Iterable[EvaluatedRun]) -> list[Row]:
    """Group runs of the same training; those of one seed that were evaluated at several steps are rows of their own."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(canonical_json([run.summary.method, _settings(run)]), []).append(run)
    rows = []
    for group in groups.values():
        seeds = [run.seed for run in group]
        parts: dict[int, list[EvaluatedRun]] = {}
        for run in group:
            parts.setdefault(run.summary.steps if len(set(seeds)) < len(seeds) else 0, []).append(run)
        rows += [Row("", _by_seed(part)) for part in parts.values()]
    return rows


def _by_seed(runs: list[EvaluatedRun]) -> tuple[EvaluatedRun, ...]:
    ordered = sorted(runs, key=lambda run: -1 if run.seed is None else run.seed)
    for one, other in pairwise(ordered):
        if one.seed == other.seed:
            raise UserError(
                f"{one.uri} and {other.uri} are the same training with the same seed, {one.seed}",
                remedy="leave one of them out, or give each a seed of its own (spec.training.seed)",
            )
    return tuple(ordered)


def _model(run: EvaluatedRun) -> dict[str, Any]:
    return dict(run.summary.training.get("model") or {})


def _settings(run: EvaluatedRun) -> dict[str, object]:
    """Return by field what was trained, but for the seed."""
    training = {name: value for name, value in run.summary.training.items() if name != "seed"}
    fields = dict(job_fields(training)) if training else {_OBJECTIVES + name: 1 for name in run.summary.held_out}
    return {name: value for name, value in fields.items() if value is not None}


def _fullness(row: Row) -> tuple[int, int, int]:
    weights = [value for name, value in _settings(row.runs[0]).items() if name.startswith(_OBJECTIVES)]
    return len(weights), -len({str(weight) for weight in weights}), len(row.runs)


def _difference(reference: Row, row: Row) -> str:
    """Name a row by what deviates from the reference."""
    there, here = _settings(reference.runs[0]), _settings(row.runs[0])
    parts = []
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) == here.get(name):
            continue
        value = here.get(name)
        if name.startswith(_OBJECTIVES):
            objective = name.removeprefix(_OBJECTIVES).partition("]")[0]
            parts.append(f"without {objective}" if value is None else f"{objective} × {value}")
        elif name.startswith("the digest"):
            parts.append(f"data {str(value)[:8]}")
        else:
            short = name.removeprefix("spec.").removeprefix("training.")
            parts.append(f"{short} {'absent' if value is None else value}")
    if not parts:
        parts = [f"step {row.runs[0].summary.steps}"]
    return ", ".join(parts)


def _refuse_different_scoring(runs: Sequence[EvaluatedRun]) -> None:
    """Raise UserError where a benchmark of two runs was not asked and scored in the same way."""
    names = dict.fromkeys(name for run in runs for name in run.summary.benchmarks)
    for name in names:
        # first one with items, so that those of all others are compared with them
        asked = sorted((run for run in runs if name in run.summary.benchmarks), key=lambda run: name not in run.items)
        first = asked[0]
        for other in asked[1:]:
            one, two = provenance_of(first.summary, name), provenance_of(other.summary, name)
            different = [
                f"{key} is {one.get(key, 'absent')} there and {two.get(key, 'absent')} here"
                for key in dict.fromkeys([*one, *two])
                if one.get(key) != two.get(key)
            ]
            if not different and {name} <= first.items.keys() & other.items.keys():
                different = _different_items(first, other, name)
            if different:
                raise UserError(
                    f"{name} was scored differently in {first.uri} (there) and {other.uri} (here), so that they cannot "
                    f"be compared: {'; '.join(different)}",
                    remedy="evaluate one of them again as the other (spec.stages.evaluate), or make a report of each",
                    exit_code=ExitCode.CONFIGURATION,
                )


def provenance_of(summary: Summary, benchmark: str) -> dict[str, str]:
    """Return what must be equal in results that are compared. A benchmark that names no data of its own asks about the
    job's, whose digest then counts."""
    result = summary.benchmarks[benchmark]
    found = dict(result.provenance)
    if not any(name.startswith(("data_", "images_sha")) for name in found):
        found["data_digest"] = summary.data_digest
    return found if result.limit is None else {**found, "limit": str(result.limit)}


def _different_items(first: EvaluatedRun, other: EvaluatedRun, name: str) -> list[str]:
    one, two = first.items[name], other.items[name]
    if one.identity == two.identity:
        return []
    if len(one) != len(two):
        return [f"{len(one)} items there and {len(two)} here"]
    pairs = zip(one.identity, two.identity, strict=True)
    there, here = next((left, right) for left, right in pairs if left != right)
    return [f"an item, its cluster and category are {there} there and {here} here"]
