"""What a benchmark found: numbers for the tracker, and a table for people."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import FiniteFloat

_METRIC = re.compile(r"[A-Za-z0-9_\-. :/]{1,200}")


@dataclass(frozen=True)
class Table:
    """A table as text. The first column is set to the left, the others, which hold numbers, to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class BenchmarkResult:
    """Scores of one benchmark. Raises ValueError for a name that MLflow would refuse, and for unequal rows."""

    metrics: dict[str, FiniteFloat]
    """Name without prefix → value; logged as `eval/<benchmark>/<name>`."""
    headline: tuple[str, ...]
    """The few metrics that the pod's termination message carries."""
    table: Table

    def __post_init__(self) -> None:
        unlawful = [name for name in self.metrics if not _METRIC.fullmatch(name)]
        if unlawful:
            raise ValueError(f"{unlawful[0]!r} cannot be the name of a metric: use letters, digits and _-. :/")
        unknown = set(self.headline) - set(self.metrics)
        if unknown:
            raise ValueError(f"the headline names {sorted(unknown)}, which are no metrics of this benchmark")
        if any(len(row) != len(self.table.columns) for row in self.table.rows):
            raise ValueError(f"the table {self.table.title!r} has rows that do not fit its columns")
