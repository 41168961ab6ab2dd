"""What a benchmark found: numbers for the tracker, and a table for people."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, FiniteFloat

_METRIC = re.compile(r"[A-Za-z0-9_\-. :/]{1,200}")


def in_metric(name: str) -> str:
    """Return the name of a group or category as a part of a metric's: what MLflow would refuse is replaced."""
    return re.sub(r"[^A-Za-z0-9_\-. ]", "_", name)


@dataclass(frozen=True)
class Table:
    """A table as text. The first column is set to the left, the others, which hold numbers, to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def prefix_of(limit: int | None) -> str:
    """Return how names of metrics begin: those of a benchmark, or of a part of one."""
    return "eval" if limit is None else "dev"


@dataclass(frozen=True)
class ItemScore:
    """What one item of a benchmark contributed, so that two checkpoints can be compared item by item."""

    item: str
    """Unique within the benchmark, and the same for every checkpoint: a table's index, PROMPT/IMAGE."""
    cluster: str
    """Items of one cluster are not independent: a question's rotations, a pair, a set, an image, a prompt."""
    category: str
    """For tables by category; empty where there is none."""
    scores: dict[str, float]
    """Metric → contribution, 0…1: the metric is 100 × the mean over the items that have it."""
    question: str = ""
    truth: str = ""
    prediction: str = ""
    """The answer, or what names an image. Texts are cut to 500 characters."""
    extracted: str = ""
    """What the scorer took the prediction for."""


@dataclass(frozen=True)
class BenchmarkResult:
    """Scores of one benchmark. Raises ValueError for a name that MLflow would refuse, and for unequal rows."""

    metrics: dict[str, FiniteFloat]
    """Name without prefix → value; logged as `eval/<benchmark>/<name>`."""
    headline: tuple[str, ...]
    """The few metrics that the pod's termination message carries."""
    table: Table
    items: Annotated[tuple[ItemScore, ...], Field(exclude=True)] = ()
    """In the order in which they were asked; written to results/items/NAME.jsonl and not to the summary."""
    means_of_categories: tuple[str, ...] = ()
    """Metrics that are the unweighted mean of the categories' means, and not the mean over the items."""
    lower_is_better: tuple[str, ...] = ()
    """Metrics that no checkpoint may be selected by, because it would be the worst."""
    provenance: dict[str, str] = field(default_factory=dict)
    """What a score depends on besides the model (rule_set, data_md5, prompt_sha256, prompt_style, judge, …): results
    whose values differ are not compared."""
    warnings: tuple[str, ...] = ()
    """What makes the scores incomplete or doubtful, in whole sentences; shown with them."""
    limit: int | None = None
    """Only the first items were asked, at most so many; set by the runner."""
    files: Annotated[dict[str, bytes], Field(exclude=True)] = field(default_factory=dict)
    """Further files: path below results/NAME/ → content."""

    def __post_init__(self) -> None:
        unlawful = [name for name in self.metrics if not _METRIC.fullmatch(name)]
        if unlawful:
            raise ValueError(f"{unlawful[0]!r} cannot be the name of a metric: use letters, digits and _-. :/")
        unknown = set(self.headline) - set(self.metrics)
        if unknown:
            raise ValueError(f"the headline names {sorted(unknown)}, which are no metrics of this benchmark")
        if any(len(row) != len(self.table.columns) for row in self.table.rows):
            raise ValueError(f"the table {self.table.title!r} has rows that do not fit its columns")
