"""One evaluated run as a report reads it: its summary, items, kept checkpoints and curves, wherever they are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import ValidationError

from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.reports.items import ItemTable, mean_of_items, read_items
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.storage.base import NotFound

Curves = Mapping[str, Mapping[int, float]]
"""Metric → step → value."""

VERSION = Summary.model_fields["schema_version"].default
TOLERANCE = 0.01
"""Percentage points by which the mean of a file's items may differ from the metric: both were rounded nowhere."""
_KEPT = re.compile(r"results/step-(\d+)/summary\.json")


class ResultFiles(Protocol):
    """What a run keeps under `results/`, in its store or in MLflow."""

    uri: str

    def get(self, key: str) -> bytes:
        """Return a file. Raises storage.NotFound."""
        ...

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (key, bytes) of every file whose key starts with `prefix`."""
        ...

    def curves(self) -> Curves:
        """Return the losses of training; empty where they are not known."""
        ...


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run with results."""

    files: ResultFiles
    summary: Summary
    items: Mapping[str, ItemTable]
    """Benchmark → items, for those whose file is there."""
    kept: tuple[Summary, ...]
    """Of every evaluated checkpoint, by step; the summary's own among them."""
    is_base: bool
    """Whether it is what others of its model are compared with."""

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.files.uri

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        return self.summary.seeds.get("training")


def read_run(files: ResultFiles, *, is_base: bool = False) -> EvaluatedRun:
    """Read a run's results; `is_base` makes it the base whatever weights were evaluated.

    Raises UserError: INPUT_MISSING without results, CONFIGURATION for those of another version, DATA_CORRUPT for
    damaged ones.
    """
    try:
        summary = _summary(files, SUMMARY_KEY)
    except NotFound:
        raise UserError(
            f"{files.uri} has no results: there is no {SUMMARY_KEY}",
            remedy="let it end with its stage evaluate (spec.stages.evaluate), or leave it out",
            exit_code=ExitCode.INPUT_MISSING,
        ) from None
    items = {}
    for name, result in summary.benchmarks.items():
        key = f"results/items/{name}.jsonl"
        try:
            table = read_items(files.get(key), f"{files.uri}/{key}")
        except NotFound:
            continue
        for metric, value in result.metrics.items():
            if table.has(metric):
                of_categories = metric in result.means_of_categories
                mean = 100 * mean_of_items(table.scores(metric), table.categories, of_categories=of_categories)
                if not np.isclose(mean, value, rtol=0, atol=TOLERANCE):
                    raise UserError(
                        f"{files.uri}: {key} gives {metric} {mean:.4f}, and {SUMMARY_KEY} has {value:.4f}: "
                        "they are not of the same evaluation",
                        remedy="evaluate the run again",
                        exit_code=ExitCode.DATA_CORRUPT,
                    )
        items[name] = table
    keys = [key for key, _ in files.list("results/step-") if _KEPT.fullmatch(key)]
    kept = {summary.steps: summary for summary in [*(_summary(files, key) for key in keys), summary]}
    base = is_base or summary.weights == "initial"
    return EvaluatedRun(files, summary, items, tuple(kept[step] for step in sorted(kept)), base)


def _summary(files: ResultFiles, key: str) -> Summary:
    content = files.get(key)
    try:
        version = json.loads(content).get("schema_version")
        if version == VERSION:
            return Summary.from_json(content)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        lines = str(error).splitlines()
        reason = " ".join(line.strip() for line in (lines[1:3] if isinstance(error, ValidationError) else lines[:1]))
        raise UserError(
            f"{files.uri}/{key} is damaged: {reason}",
            remedy="evaluate the run again, or restore its results",
            exit_code=ExitCode.DATA_CORRUPT,
        ) from None
    raise UserError(
        f"{files.uri}/{key} has schema_version {version!r}, and this version of unimrg reads {VERSION}",
        remedy="evaluate the run again with this version, or use the version of unimrg that wrote it",
    )
