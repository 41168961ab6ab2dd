"""Compares the rows of a table benchmark by benchmark, on the same items: means, intervals, gains, and what is best.

A row's score is the mean over its runs. Its interval, and that of a difference between two rows, says how far another
draw of *items* would move it (bootstrap over clusters, all rows on the same draws); the standard deviation between runs
says how far another *seed* would. Rules in words: docs/method/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimrg_trainer.evaluation.intervals import Interval, bootstrap_means, mcnemar, wilson
from unimrg_trainer.evaluation.over_seeds import Mean, mean_over_seeds
from unimrg_trainer.evaluation.reports.columns import Column
from unimrg_trainer.evaluation.reports.grouping import Row
from unimrg_trainer.evaluation.reports.items import ItemTable

SEED = 0
"""Of the bootstrap: the same runs give the same report."""

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Difference:
    """How far a row is from the one that it is compared with, in the units of the score."""

    value: float
    interval: Interval | None
    p_value: float | None
    """Exact McNemar test over items; None unless two single runs with scores of 0 and 1 are compared."""


@dataclass(frozen=True)
class Cell:
    """A score of a row."""

    mean: Mean
    n: int | None
    """Items; None where they are not known."""
    interval: Interval | None
    difference: Difference | None
    """From the baseline; None in the baseline itself."""
    notes: tuple[str, ...]
    """What makes it incomplete."""
    best: bool = False
    """Whether it is better than the second best, and the interval of their difference excludes 0."""


@dataclass(frozen=True)
class CategoryCell:
    """A score of a row in one category."""

    mean: float
    difference: Difference | None


@dataclass(frozen=True)
class CategoryTable:
    """One score of a benchmark by category."""

    column: Column
    counts: Mapping[str, int]
    """Category → items."""
    cells: Sequence[Mapping[str, CategoryCell]]
    """For each row of the table: category → score."""


@dataclass(frozen=True)
class Comparison:
    """A table: rows by columns."""

    rows: Sequence[Row]
    columns: Sequence[Column]
    baseline: int | None
    """Index of the row that others are compared with."""
    cells: Mapping[tuple[int, int], Cell]
    """(row, column) → score, where there is one."""
    categories: Sequence[CategoryTable]


def compare_rows(
    rows: Sequence[Row], columns: Sequence[Column], baseline: int | None, on_progress: OnProgress = lambda _: None
) -> Comparison:
    """Compare rows whose benchmarks were scored in the same way; `on_progress` is called with each benchmark's name."""
    cells: dict[tuple[int, int], Cell] = {}
    tables = []
    for benchmark in dict.fromkeys(column.benchmark for column in columns):
        on_progress(benchmark)
        of_benchmark = {index: column for index, column in enumerate(columns) if column.benchmark == benchmark}
        found, categories = _Benchmark(rows, benchmark, baseline).compare(of_benchmark)
        cells |= found
        tables += categories
    return Comparison(rows, columns, baseline, cells, tables)


_Key = tuple[str | int, ...]


class _Benchmark:
    """One benchmark of some rows. What is to be drawn is collected first, so that all of it is drawn at once."""

    def __init__(self, rows: Sequence[Row], benchmark: str, baseline: int | None) -> None:
        self.name, self.baseline = benchmark, baseline
        self.rows = rows
        self.runs = [[run for run in row.runs if benchmark in run.summary.benchmarks] for row in rows]
        asked = [run for runs in self.runs for run in runs]
        tables = [run.items[benchmark] for run in asked if benchmark in run.items]
        self.table: ItemTable | None = tables[0] if tables else None
        self.means_of_categories = {
            name for run in asked for name in run.summary.benchmarks[benchmark].means_of_categories
        }
        self._wanted: dict[_Key, tuple[np.ndarray, bool]] = {}

    def compare(self, columns: Mapping[int, Column]) -> tuple[dict[tuple[int, int], Cell], list[CategoryTable]]:
        """Return cells by (row, column), and the table by category of the first column that has items."""
        means = {index: self._means(column) for index, column in columns.items()}
        scores = {index: self._scores(column) for index, column in columns.items()}
        for index, column in columns.items():
            self._want(index, scores[index], of_categories=column.metric in self.means_of_categories)
            if (pair := self._best(column, means[index], scores[index])) is not None:
                first, second = (scores[index][row] for row in pair)
                self._wanted["best", index] = first - second, column.metric in self.means_of_categories
        by_item = next((index for index in columns if scores[index]), None)
        categories = self._categories(scores[by_item]) if by_item is not None else []
        for category, row in ((name, row) for name in categories for row in scores[by_item or 0]):
            self._want_category(category, row, scores[by_item or 0])
        found = self._draw()
        cells = {
            (row, index): self._cell(row, index, column, means[index], scores[index], found)
            for index, column in columns.items()
            for row in means[index]
        }
        if by_item is None or not categories:
            return cells, []
        return cells, [self._category_table(columns[by_item], categories, scores[by_item], found)]

    def _means(self, column: Column) -> dict[int, Mean]:
        found = {}
        for row, runs in enumerate(self.runs):
            metrics = [run.summary.benchmarks[self.name].metrics for run in runs]
            if values := [one[column.metric] for one in metrics if column.metric in one]:
                found[row] = mean_over_seeds(values)
        return found

    def _scores(self, column: Column) -> dict[int, np.ndarray]:
        """Return for each row whose runs all have items its score of each item [items], in percent."""
        found = {}
        for row, runs in enumerate(self.runs):
            tables = [run.items.get(self.name) for run in runs]
            if tables and all(table is not None and table.has(column.metric) for table in tables):
                each = [table.scores(column.metric) for table in tables if table is not None]
                found[row] = 100 * np.sum(each, axis=0) / len(each)
        return found

    def _categories(self, scores: Mapping[int, np.ndarray]) -> list[str]:
        assert self.table is not None
        counted = ~np.isnan(next(iter(scores.values())))
        names = [str(name) for name in np.unique(self.table.categories[counted])]
        return names if len(names) > 1 else []

    def _want(self, index: int, scores: Mapping[int, np.ndarray], *, of_categories: bool) -> None:
        base = scores.get(self.baseline) if self.baseline is not None else None
        for row, values in scores.items():
            self._wanted["score", index, row] = values, of_categories
            if base is not None and row != self.baseline:
                self._wanted["difference", index, row] = values - base, of_categories

    def _want_category(self, category: str, row: int, scores: Mapping[int, np.ndarray]) -> None:
        assert self.table is not None
        if self.baseline is not None and self.baseline in scores and row != self.baseline:
            difference = scores[row] - scores[self.baseline]
            self._wanted["category", category, row] = (
                np.where(self.table.categories == category, difference, np.nan), False,
            )  # fmt: skip

    def _best(
        self, column: Column, means: Mapping[int, Mean], scores: Mapping[int, np.ndarray]
    ) -> tuple[int, int] | None:
        """Return the best row and the second best; None where there are not two, or one has no items."""
        ordered = sorted(means, key=lambda row: -column.gain(means[row].mean))
        return (ordered[0], ordered[1]) if len(ordered) > 1 and {*ordered[:2]} <= scores.keys() else None

    def _draw(self) -> dict[_Key, Interval | None]:
        if self.table is None or not self._wanted:
            return {}
        columns: list[np.ndarray] = []
        groups: list[range] = []
        for values, of_categories in self._wanted.values():
            parts = [values]
            if of_categories:
                names = np.unique(self.table.categories[~np.isnan(values)])
                parts = [np.where(self.table.categories == name, values, np.nan) for name in names]
            groups.append(range(len(columns), len(columns) + len(parts)))
            columns += parts
        intervals = bootstrap_means(np.stack(columns, axis=1), self.table.clusters, groups, seed=SEED)
        return dict(zip(self._wanted, intervals, strict=True))

    def _cell(
        self,
        row: int,
        index: int,
        column: Column,
        means: Mapping[int, Mean],
        scores: Mapping[int, np.ndarray],
        found: Mapping[_Key, Interval | None],
    ) -> Cell:
        difference, best = None, False
        if self.baseline is not None and row != self.baseline and self.baseline in means:
            value = means[row].mean - means[self.baseline].mean
            p_value = self._p_value(scores.get(row), scores.get(self.baseline), self.baseline, row)
            difference = Difference(value, found.get(("difference", index, row)), p_value)
        gain = found.get(("best", index))
        if gain is not None and gain.excludes(0.0):
            pair = self._best(column, means, scores)
            best = pair is not None and pair[0] == row
        n, interval = self._own(row, column.metric)
        if row in scores:
            n, interval = int(np.sum(~np.isnan(scores[row]))), found.get(("score", index, row))
            interval = interval or self._of_equal_items(scores[row])
        return Cell(means[row], n, interval, difference, self._notes(row), best)

    def _of_equal_items(self, scores: np.ndarray) -> Interval | None:
        """Return Wilson's interval over clusters where all items are right or all wrong: no resample would differ."""
        assert self.table is not None
        counted = ~np.isnan(scores)
        units = len({label for label, known in zip(self.table.clusters, counted, strict=True) if known})
        value = scores[counted][0]
        if units < 2 or value not in (0.0, 100.0) or np.any(scores[counted] != value):
            return None
        interval = wilson(units if value else 0, units)
        return Interval(100 * interval.low, 100 * interval.high)

    def _own(self, row: int, metric: str) -> tuple[int | None, Interval | None]:
        """Return how many items the benchmark itself counted, and of a single run the interval that it gives."""
        metrics = self.runs[row][0].summary.benchmarks[self.name].metrics
        n = metrics.get(f"{metric}_n", metrics.get("n"))
        low, high = (metrics.get(f"{metric}_{end}") for end in ("low", "high"))
        interval = Interval(low, high) if low is not None and high is not None else None
        return None if n is None else int(n), interval if len(self.runs[row]) == 1 else None

    def _p_value(self, one: np.ndarray | None, other: np.ndarray | None, *rows: int) -> float | None:
        if one is None or other is None or any(len(self.runs[row]) > 1 for row in rows):
            return None
        counted = ~np.isnan(one)
        if not {*np.unique(one[counted]), *np.unique(other[counted])} <= {0.0, 100.0}:
            return None
        return mcnemar(int(np.sum(one > other)), int(np.sum(one < other)))

    def _notes(self, row: int) -> tuple[str, ...]:
        """Return what makes the scores of a row incomplete."""
        runs, of_row = self.runs[row], self.rows[row].runs
        notes = dict.fromkeys(text for run in runs for text in run.summary.benchmarks[self.name].warnings)
        if len(runs) < len(of_row):
            notes[f"{len(of_row) - len(runs)} of {len(of_row)} runs have no score of {self.name}"] = None
        missing = [run.uri for run in runs if self.name not in run.items]
        if missing and self.table is not None:  # else it has no items at all
            notes[f"no interval: there is no results/items/{self.name}.jsonl in {', '.join(missing)}"] = None
        return tuple(notes)

    def _category_table(
        self,
        column: Column,
        categories: Sequence[str],
        scores: Mapping[int, np.ndarray],
        found: Mapping[_Key, Interval | None],
    ) -> CategoryTable:
        assert self.table is not None
        masks = {name: self.table.categories == name for name in categories}
        means = {
            row: {name: float(np.nanmean(values[mask])) for name, mask in masks.items()}
            for row, values in scores.items()
        }
        base = means.get(self.baseline) if self.baseline is not None else None
        cells = []
        for row in range(len(self.rows)):
            compared = base is not None and row != self.baseline
            cells.append({
                name: CategoryCell(
                    mean,
                    Difference(mean - base[name], found.get(("category", name, row)), None)
                    if compared and base is not None else None,
                )
                for name, mean in means.get(row, {}).items()
            })  # fmt: skip
        any_scores = next(iter(scores.values()))
        counts = {name: int(np.sum(mask & ~np.isnan(any_scores))) for name, mask in masks.items()}
        return CategoryTable(column, counts, cells)
