"""Numbers that others published, for rows that are marked as quoted: published.csv, with where each one is from.

They are never averaged with measured ones, and no interval compares them: their items are not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unimrg_trainer.evaluation.reports.columns import read_csv


@dataclass(frozen=True)
class Quote:
    """A published score, or how far it is from the base's, or both."""

    value: float | None
    difference: float | None
    source: str


@dataclass(frozen=True)
class QuotedRow:
    """A row of a table with published scores."""

    label: str
    quotes: Mapping[tuple[str, str], Quote]
    """(benchmark, metric) → what was published."""


def quoted_rows(model: str) -> list[QuotedRow]:
    """Return what is published about a base model, in the order of the file."""
    rows: dict[str, dict[tuple[str, str], Quote]] = {}
    for line in read_csv("published.csv"):
        if line["model"] == model:
            value, difference = (float(line[name]) if line[name] else None for name in ("value", "difference"))
            rows.setdefault(line["row"], {})[line["benchmark"], line["metric"]] = Quote(
                value, difference, line["source"]
            )
    return [QuotedRow(label, quotes) for label, quotes in rows.items()]
