"""The drawings of a report: each with a caption that says what it shows, of how many items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimrg_api.spec_model import RECIPES
from unimrg_trainer.evaluation.over_seeds import mean_over_seeds
from unimrg_trainer.evaluation.reports.columns import Column
from unimrg_trainer.evaluation.reports.comparison import CategoryCell, Comparison
from unimrg_trainer.evaluation.reports.grouping import Row, provenance_of
from unimrg_trainer.evaluation.reports.report import ModelReport
from unimrg_trainer.evaluation.reports.svg import SERIES, WIDTH, Drawing, Scale, tick_text
from unimrg_trainer.evaluation.reports.wording import column_heads, number

LOSS = "train/loss/"
POINTS = 160
"""Of a curve, at most: more than a drawing of this width shows."""
LABELS = 118
"""Width of the names at the left."""


@dataclass(frozen=True)
class Figure:
    """A drawing and what stands below it."""

    drawing: Drawing
    caption: str


def interval_figures(table: Comparison) -> Iterator[Figure]:
    """One for each column: every row's score as a dot with its interval."""
    heads = column_heads(table)
    for index, column in enumerate(table.columns):
        cells = {row: cell for row in range(len(table.rows)) if (cell := table.cells.get((row, index)))}
        if len(cells) < 2 or not any(cell.interval for cell in cells.values()):
            continue
        ends = [end for cell in cells.values() if (interval := cell.interval) for end in (interval.low, interval.high)]
        scale = Scale([*ends, *(cell.mean.mean for cell in cells.values())], LABELS + 8, WIDTH - 12)
        bottom = 10 + 24 * len(cells)
        form = f".{column.digits}f"
        said = "; ".join(f"{table.rows[row].label} {number(cell.mean.mean, form)}" for row, cell in cells.items())
        drawing = Drawing(bottom + 26, f"{column.title}: scores with intervals", f"{said}.")
        _x_axis(drawing, scale, 6, bottom)
        for place, (row, cell) in enumerate(cells.items()):
            y = 20 + 24 * place
            drawing.text(LABELS, y + 4, _short(table.rows[row].label), "end")
            if (interval := cell.interval) is not None:
                drawing.line(scale(interval.low), y, scale(interval.high), y, f"bar s{_series(table.rows, row)}")
            drawing.marker(
                scale(cell.mean.mean),
                y,
                _series(table.rows, row),
                f"{table.rows[row].label}: {number(cell.mean.mean, form)}",
            )
        yield Figure(drawing, f"{column.title}: score and 95 % interval over items, {heads[index][1]}.")


def scatter_figure(model: ModelReport) -> Figure | None:
    """Understanding against generation, with an arrow from the base to each method; None without both."""
    table = model.main
    kinds = {"understanding": _firsts(table, "understanding"), "generation": _firsts(table, "generation")}
    places: dict[int, tuple[float, float]] = {}
    for row in range(len(table.rows)):
        means = [[table.cells.get((row, index)) for index in indices] for indices in kinds.values()]
        if all(cells and all(cells) for cells in means):
            x, y = (float(np.mean([cell.mean.mean for cell in cells if cell])) for cells in means)
            places[row] = x, y
    if len(places) < 2:
        return None
    across = Scale([x for x, _ in places.values()], 44, WIDTH - 60)
    upward = Scale([y for _, y in places.values()], 226, 16)
    said = "; ".join(f"{table.rows[row].label} {number(x)} and {number(y)}" for row, (x, y) in places.items())
    drawing = Drawing(270, f"{model.block.model}: understanding against generation", f"{said}.")
    _x_axis(drawing, across, 8, 234)
    _y_axis(drawing, upward, 44, WIDTH - 8)
    drawing.text(WIDTH - 8, 266, "understanding, mean", "end", "small")
    drawing.text(4, 12, "generation, mean", "start", "small")
    if table.baseline in places:
        start = places[table.baseline]
        for row, (x, y) in places.items():
            if row != table.baseline:
                drawing.arrow(across(start[0]), upward(start[1]), across(x), upward(y), _series(table.rows, row))
    for row, (x, y) in places.items():
        drawing.marker(across(x), upward(y), _series(table.rows, row))
        below = row == table.baseline  # arrows lead up from it
        drawing.text(across(x) + 8, upward(y) + (15 if below else -6), _short(table.rows[row].label))
    names = [", ".join(table.columns[index].title for index in indices) for indices in kinds.values()]
    caption = f"Unweighted means of {names[0]} (across) and {names[1]} (upward); arrows lead from the base."
    return Figure(drawing, caption)


def step_figures(table: Comparison) -> Iterator[Figure]:
    """One for each column whose score is known at several steps: the mean over seeds at each kept checkpoint."""
    for column, (_, counted) in zip(table.columns, column_heads(table), strict=True):
        curves = {index: curve for index, row in enumerate(table.rows) if len(curve := _by_step(row, column)) > 1}
        if curves:
            caption = f"{column.title} at kept checkpoints, mean over seeds, {counted}."
            yield Figure(_curves(curves, table.rows, f"{column.title} by step", "step", marked=True), caption)


def loss_figures(table: Comparison) -> Iterator[Figure]:
    """One for each task: the loss of each row's first run, smoothed."""
    known = {index: row.runs[0].files.curves() for index, row in enumerate(table.rows) if not row.is_base}
    tasks = dict.fromkeys(name for curves in known.values() for name in curves if name.startswith(LOSS))
    for task in tasks:
        curves = {index: _thin(one[task]) for index, one in known.items() if len(one.get(task, {})) > 1}
        if curves:
            name = task.removeprefix(LOSS)
            seeds = sorted({str(table.rows[index].runs[0].seed) for index in curves})
            caption = f"Training loss of {name}, running mean; seed {', '.join(seeds)}."
            yield Figure(_curves(curves, table.rows, f"Training loss of {name}", "step"), caption)


def gain_figures(table: Comparison) -> Iterator[Figure]:
    """One for each table by category: gains of the last row over the baseline, sorted, with intervals."""
    for of_category in table.categories:
        compared = [row for row, cells in enumerate(of_category.cells) if any(one.difference for one in cells.values())]
        if compared and table.baseline is not None:
            row = compared[-1]
            yield _gains(of_category.column, of_category.counts, of_category.cells[row], table, row)


def _gains(
    column: Column, counts: Mapping[str, int], cells: Mapping[str, CategoryCell], table: Comparison, row: int
) -> Figure:
    gains = {name: one.difference for name, one in cells.items() if one.difference is not None}
    order = sorted(gains, key=lambda name: (column.gain(gains[name].value), name), reverse=True)
    ends = [0.0]
    for gain in gains.values():
        ends += [gain.value, *((gain.interval.low, gain.interval.high) if gain.interval else ())]
    scale = Scale(ends, LABELS + 8, WIDTH - 12)
    bottom = 8 + 18 * len(order)
    form = f"+.{column.digits}f"
    said = "; ".join(f"{name} {number(gains[name].value, form)}" for name in order)
    title = f"{column.title}: gain of {table.rows[row].label} over {table.rows[table.baseline or 0].label} by category"
    drawing = Drawing(bottom + 26, title, f"{said}.")
    _x_axis(drawing, scale, 4, bottom)
    drawing.line(scale(0), 4, scale(0), bottom, "zero")
    for place, name in enumerate(order):
        y, gain = 15 + 18 * place, gains[name]
        drawing.text(LABELS, y + 4, _short(f"{name} ({counts[name]})", 22), "end", "small")
        if gain.interval is not None:
            drawing.line(scale(gain.interval.low), y, scale(gain.interval.high), y, f"bar s{_series(table.rows, row)}")
        drawing.marker(scale(gain.value), y, _series(table.rows, row), f"{name}: {number(gain.value, form)}")
    return Figure(drawing, f"{title}, 95 % paired intervals (items in brackets).")


def _firsts(table: Comparison, kind: str) -> list[int]:
    """Return the first column of each benchmark of a kind that every row has and whose scores are percentages."""
    found: dict[str, int] = {}
    for index, column in enumerate(table.columns):
        if (
            column.unit == "%"
            and column.kind == kind
            and all((row, index) in table.cells for row in range(len(table.rows)))
        ):
            found.setdefault(column.benchmark, index)
    return list(found.values())


def _by_step(row: Row, column: Column) -> dict[int, float]:
    """Return step → score; what an earlier evaluation of the run scored in another way is left out."""
    values: dict[int, list[float]] = {}
    for run in row.runs:
        for summary in run.kept if column.benchmark in run.summary.benchmarks else ():
            result = summary.benchmarks.get(column.benchmark)
            if result is None or column.metric not in result.metrics:
                continue
            if provenance_of(summary, column.benchmark) == provenance_of(run.summary, column.benchmark):
                values.setdefault(summary.steps, []).append(result.metrics[column.metric])
    return {step: mean_over_seeds(of_step).mean for step, of_step in sorted(values.items())}


def _thin(curve: Mapping[int, float]) -> dict[int, float]:
    """Return at most POINTS points: the mean of each stretch at its last step."""
    points = [(step, value) for step, value in sorted(curve.items()) if math.isfinite(value)]
    parts = np.array_split(np.array(points), min(POINTS, len(points))) if points else []
    return {int(part[-1, 0]): float(part[:, 1].mean()) for part in parts}


def _curves(
    curves: Mapping[int, Mapping[int, float]], rows: Sequence[Row], title: str, across: str, *, marked: bool = False
) -> Drawing:
    steps = [step for curve in curves.values() for step in curve]
    values = [value for curve in curves.values() for value in curve.values()]
    x_scale, y_scale = Scale(steps, 44, WIDTH - 72), Scale(values, 186, 12)
    said = "; ".join(
        f"{rows[index].label} ends at {number(list(curve.values())[-1], '.3g')}" for index, curve in curves.items()
    )
    drawing = Drawing(230, title, f"{said}.")
    _x_axis(drawing, x_scale, 8, 194)
    _y_axis(drawing, y_scale, 44, WIDTH - 68)
    drawing.text(WIDTH - 72, 226, across, "end", "small")
    ends = sorted(curves, key=lambda index: y_scale(list(curves[index].values())[-1]))
    below = -math.inf
    for index in ends:
        points = [(x_scale(step), y_scale(value)) for step, value in curves[index].items()]
        series = _series(rows, index)
        drawing.path(points, f"curve s{series} dash{series}")
        for x, y in points if marked else points[-1:]:
            drawing.marker(x, y, series)
        below = max(points[-1][1] + 4, below + 13)  # names do not overlap
        drawing.text(WIDTH - 62, below, _short(rows[index].label, 10), "start", "small")
    return drawing


def _series(rows: Sequence[Row], index: int) -> int:
    """Return the colour and marker of a row: the same for a method in every drawing, whichever others are there."""
    row, methods = rows[index], list[str](RECIPES)
    if row.is_base:
        return 0
    return methods.index(row.method) + 1 if row.method in methods else (len(methods) + 1 + index) % SERIES


def _x_axis(drawing: Drawing, scale: Scale, top: float, bottom: float) -> None:
    for tick in scale.ticks():
        drawing.line(scale(tick), top, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 15, tick_text(tick), "middle", "small")


def _y_axis(drawing: Drawing, scale: Scale, left: float, right: float) -> None:
    for tick in scale.ticks():
        drawing.line(left, scale(tick), right, scale(tick), "grid")
        drawing.text(left - 5, scale(tick) + 4, tick_text(tick), "end", "small")


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
