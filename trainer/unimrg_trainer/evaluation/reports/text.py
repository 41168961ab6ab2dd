"""A report as Markdown, for people and issues, and as CSV, for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from unimrg_trainer.evaluation.intervals import Interval
from unimrg_trainer.evaluation.reports.comparison import Comparison, Difference
from unimrg_trainer.evaluation.reports.report import ModelReport, Report
from unimrg_trainer.evaluation.reports.wording import (
    DOUBLE_DAGGER,
    LEGEND,
    RUN_HEADS,
    Text,
    category_rows,
    column_heads,
    notes_of,
    quote_text,
    quoted_sources,
    run_rows,
    score_rows,
    scoring_rows,
)

CSV_COLUMNS = (
    "model", "table", "row", "seeds", "benchmark", "metric", "category", "n", "score", "sd", "low", "high",
    "difference", "difference_low", "difference_high", "p", "incomplete", "quoted",
)  # fmt: skip


def as_markdown(report: Report) -> str:
    """Return tables, notes and provenance."""
    lines = ["# Results", "", report.date, ""]
    for model in report.models:
        lines += [f"## {model.block.model}", ""]
        lines += _scores(model.main, model)
        for ablation, table in model.ablations:
            lines += [f"### Ablations of {ablation.method}", "", *_scores(table)]
        for index, of_category in enumerate(model.main.categories):
            heads = ["category", "n", *(row.label for row in model.main.rows)]
            lines += [f"### {of_category.column.title} by category", ""]
            lines += _table(heads, ([name, *map(_cell, cells)] for name, cells in category_rows(model.main, index)))
        for flips in model.flips:
            lines.append(
                f"- {flips.column.title}, {flips.before} → {flips.after}: "
                f"{flips.gained} wrong → right, {flips.lost} right → wrong"
            )
        lines += [""] if model.flips else []
        lines += ["### How it was scored", "", *_table(["benchmark", "with"], map(list, scoring_rows(model)), "---")]
        if notes := notes_of(model):
            lines += ["Notes:", "", *(f"- {note}" for note in notes), ""]
        if sources := quoted_sources(model):
            lines += [f"{DOUBLE_DAGGER} Quoted:", "", *(f"- {source}" for source in sources), ""]
        lines += ["### Runs", "", *_table(RUN_HEADS, run_rows(model), "---")]
    if report.left_out:
        lines += ["## Left out", "", *(f"- {sentence}" for sentence in report.left_out), ""]
    lines += ["## How to read this", "", *(f"- {sentence}" for sentence in LEGEND)]
    return "\n".join(lines).rstrip() + "\n"


def _scores(table: Comparison, model: ModelReport | None = None) -> list[str]:
    heads = ["", *(" ".join(filter(None, head)) for head in column_heads(table))]
    rows = [[label, *map(_cell, cells)] for label, cells in score_rows(table)]
    for quoted in model.quoted if model is not None else ():
        cells = [quote_text(quoted, column) for column in table.columns]
        rows.append([f"{quoted.label}, paper {DOUBLE_DAGGER}", *map(_cell, cells)])
    return _table(heads, rows)


def _cell(text: Text) -> str:
    return text.plain.replace(text.main, f"**{text.main}**", 1) if text.bold else text.plain


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], side: str = "---:") -> list[str]:
    sides = ["---", *[side] * (len(heads) - 1)]
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return [*(f"| {' | '.join(row)} |" for row in (heads, sides, *escaped)), ""]


def as_csv(report: Report) -> str:
    """Return a line for each score of each row, by category too, with two decimals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for model in report.models:
        writer.writerows({"model": model.block.model, "table": "main", **line} for line in _lines(model.main))
        for ablation, table in model.ablations:
            name = f"ablations of {ablation.method}"
            writer.writerows({"model": model.block.model, "table": name, **line} for line in _lines(table))
        for row in model.quoted:
            for (benchmark, metric), quote in row.quotes.items():
                where = {"model": model.block.model, "table": "main", "row": row.label, "quoted": quote.source}
                values = {"score": _rounded(quote.value, 2), "difference": _rounded(quote.difference, 2)}
                writer.writerow({**where, "benchmark": benchmark, "metric": metric, **values})
    return text.getvalue()


def _lines(table: Comparison) -> Iterator[dict[str, str]]:
    for (row, index), cell in sorted(table.cells.items()):
        digits = table.columns[index].digits + 1
        yield {
            "row": table.rows[row].label,
            "seeds": str(cell.mean.jobs),
            "benchmark": table.columns[index].benchmark,
            "metric": table.columns[index].metric,
            "n": "" if cell.n is None else str(cell.n),
            "score": _rounded(cell.mean.mean, digits),
            "sd": _rounded(cell.mean.deviation, digits),
            **_ends("", cell.interval, digits),
            **_of_difference(cell.difference, digits),
            "incomplete": "; ".join(cell.notes),
        }
    for of_category in table.categories:
        digits = of_category.column.digits + 1
        for row, cells in enumerate(of_category.cells):
            for name, one in cells.items():
                yield {
                    "row": table.rows[row].label,
                    "seeds": str(len(table.rows[row].runs)),
                    "benchmark": of_category.column.benchmark,
                    "metric": of_category.column.metric,
                    "category": name,
                    "n": str(of_category.counts[name]),
                    "score": _rounded(one.mean, digits),
                    **_of_difference(one.difference, digits),
                }


def _of_difference(difference: Difference | None, digits: int) -> dict[str, str]:
    if difference is None:
        return {}
    return {
        "difference": _rounded(difference.value, digits),
        **_ends("difference_", difference.interval, digits),
        "p": "" if difference.p_value is None else f"{difference.p_value:.4g}",
    }


def _ends(prefix: str, interval: Interval | None, digits: int) -> dict[str, str]:
    if interval is None:
        return {}
    return {f"{prefix}low": _rounded(interval.low, digits), f"{prefix}high": _rounded(interval.high, digits)}


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
