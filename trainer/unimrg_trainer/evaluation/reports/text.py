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
    lines = ["# Results", "", f"{report.date}. {LEGEND}", ""]
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
        lines += ["### How it was scored", "", *_table(["benchmark", "with"], map(list, scoring_rows(model)))]
        if notes := notes_of(model):
            lines += ["Notes:", "", *(f"- {note}" for note in notes), ""]
        if sources := quoted_sources(model):
            lines += [f"{DOUBLE_DAGGER} Quoted:", "", *(f"- {source}" for source in sources), ""]
        lines += ["### Runs", "", *_table(RUN_HEADS, run_rows(model))]
    lines += [f"- {sentence}" for sentence in report.left_out]
    return "\n".join(lines).rstrip() + "\n"


def _scores(table: Comparison, model: ModelReport | None = None) -> list[str]:
    heads = ["", *(" ".join(filter(None, head)) for head in column_heads(table))]
    rows = [[label, *map(_cell, cells)] for label, cells in score_rows(table)]
    for quoted in model.quoted if model is not None else ():
        cells = [quote_text(quoted, column) for column in table.columns]
        rows.append([f"{quoted.label}, paper {DOUBLE_DAGGER}", *map(_cell, cells)])
    return _table(heads, rows)


def _cell(text: Text) -> str:
    main = f"**{text.main}**" if text.bold else text.main
    return " ".join(filter(None, (main, text.note)))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    sides = ["---", *["---:"] * (len(heads) - 1)]
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
                values = {"score": _two(quote.value), "difference": _two(quote.difference)}
                writer.writerow({**where, "benchmark": benchmark, "metric": metric, **values})
    return text.getvalue()


def _lines(table: Comparison) -> Iterator[dict[str, str]]:
    for (row, index), cell in sorted(table.cells.items()):
        yield {
            "row": table.rows[row].label,
            "seeds": str(cell.mean.jobs),
            "benchmark": table.columns[index].benchmark,
            "metric": table.columns[index].metric,
            "n": "" if cell.n is None else str(cell.n),
            "score": _two(cell.mean.mean),
            "sd": _two(cell.mean.deviation),
            **_ends("", cell.interval),
            **_of_difference(cell.difference),
            "incomplete": "; ".join(cell.notes),
        }
    for of_category in table.categories:
        for row, cells in enumerate(of_category.cells):
            for name, one in cells.items():
                yield {
                    "row": table.rows[row].label,
                    "seeds": str(len(table.rows[row].runs)),
                    "benchmark": of_category.column.benchmark,
                    "metric": of_category.column.metric,
                    "category": name,
                    "n": str(of_category.counts[name]),
                    "score": _two(one.mean),
                    **_of_difference(one.difference),
                }


def _of_difference(difference: Difference | None) -> dict[str, str]:
    if difference is None:
        return {}
    p_value = "" if difference.p_value is None else f"{difference.p_value:.4g}"
    return {"difference": _two(difference.value), **_ends("difference_", difference.interval), "p": p_value}


def _ends(prefix: str, interval: Interval | None) -> dict[str, str]:
    return {} if interval is None else {f"{prefix}low": _two(interval.low), f"{prefix}high": _two(interval.high)}


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
