"""Which scores a report shows, in which order and under which titles: columns.csv, then what it does not know."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from unimrg_trainer.evaluation.result import BenchmarkResult


@dataclass(frozen=True)
class Column:
    """One score of a benchmark."""

    benchmark: str
    metric: str
    title: str
    kind: str = ""
    """`understanding`, `generation`, or empty: not known."""
    lower_is_better: bool = False
    unit: str = "%"
    """`%`, `dB`, or `1` for what lies between 0 and 1."""

    @property
    def digits(self) -> int:
        """Decimals for people; programs get one more."""
        return 3 if self.unit == "1" else 1

    def gain(self, difference: float) -> float:
        """Return a difference with the sign that makes a positive one better."""
        return -difference if self.lower_is_better else difference


def read_csv(name: str) -> list[dict[str, str]]:
    """Return the rows of a table that lies beside this file."""
    return list(csv.DictReader(resources.files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()))


def columns_of(found: Iterable[Mapping[str, BenchmarkResult]]) -> list[Column]:
    """Return the columns for the benchmarks of several runs: the known ones first, of others their headline.

    Of a headline, numbers of items and the scores of baselines are left out.
    """
    results: dict[str, BenchmarkResult] = {}
    metrics: dict[str, set[str]] = {}
    for one in found:
        for name, result in one.items():
            results.setdefault(name, result)
            metrics.setdefault(name, set()).update(result.metrics)
    columns = []
    for row in read_csv("columns.csv"):
        for name in results:
            if name == row["benchmark"] and row["metric"] in metrics[name]:
                part = "" if results[name].limit is None else ", a part"
                less = row["better"] == "lower"
                title = row["title"] + {"dB": ", dB"}.get(row["unit"], "") + (", less is better" if less else "") + part
                columns.append(Column(name, row["metric"], title, row["kind"], less, row["unit"]))
    for name, result in results.items():
        if not any(column.benchmark == name for column in columns):
            shown = [metric for metric in result.headline if not _counts(metric)]
            columns += [Column(name, metric, f"{name} {metric}") for metric in shown]
    return columns


def _counts(metric: str) -> bool:
    last = metric.rpartition("/")[2]
    return last in ("n", "images") or last.startswith("majority") or last.endswith(("_n", "_rate"))
