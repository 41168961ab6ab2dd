"""How numbers and runs are written in every form of a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unimrg_api.digests import sha256_of
from unimrg_trainer.evaluation.reports.columns import Column
from unimrg_trainer.evaluation.reports.comparison import Cell, Comparison, Difference
from unimrg_trainer.evaluation.reports.grouping import provenance_of
from unimrg_trainer.evaluation.reports.published import QuotedRow
from unimrg_trainer.evaluation.reports.report import ModelReport

DAGGER, DOUBLE_DAGGER = "†", "‡"
LEGEND = (
    "Scores are in percent, those with three decimals between 0 and 1.",
    "± is half the width of the 95 % interval over items: what another draw of items would change (bootstrap over "
    "clusters; Wilson's where all items are right, or all wrong). A score without items has the benchmark's own "
    "interval, or none.",
    "sd is the standard deviation between seeds: what another training would change.",
    "Δ is the difference on the same items with its paired 95 % interval; p is the exact McNemar test, for single runs "
    "with right-or-wrong scores, and takes items as independent.",
    "Bold: the best of its column, where the interval of its lead over the second best excludes 0.",
    f"{DAGGER} incomplete or doubtful, see the notes.",
    f"{DOUBLE_DAGGER} quoted, not measured here: neither averaged nor compared.",
)


@dataclass(frozen=True)
class Text:
    """A cell of a table: the number, what stands small beside it, and whether it is set in bold."""

    main: str
    note: str = ""
    bold: bool = False
    last: str = ""
    """What stands below the note."""

    @property
    def plain(self) -> str:
        """All of it on a line."""
        return " ".join(filter(None, (self.main, ", ".join(filter(None, (self.note, self.last))))))


NOTHING = Text("–")


def number(value: float, form: str = ".1f") -> str:
    """Return a number with a real minus sign."""
    text = f"{value:{form}}"
    return (text if float(text) else f"{0.0:{form}}").replace("-", "−")


def score_text(cell: Cell | None, column: Column) -> Text:
    """Return a score with half the width of its interval and the deviation between seeds."""
    if cell is None:
        return NOTHING
    parts, form = [], f".{column.digits}f"
    if cell.interval is not None:
        parts.append(f"±{number((cell.interval.high - cell.interval.low) / 2, form)}")
    if cell.mean.deviation is not None:
        parts.append(f"sd {number(cell.mean.deviation, form)}")
    return Text(number(cell.mean.mean, form) + (DAGGER if cell.notes else ""), ", ".join(parts), cell.best)


def difference_text(difference: Difference | None, column: Column) -> Text:
    """Return a difference with its interval and p."""
    if difference is None:
        return NOTHING
    form, interval, p_value = f"+.{column.digits}f", difference.interval, difference.p_value
    ends = "" if interval is None else f"[{number(interval.low, form)}, {number(interval.high, form)}]"
    chance = "" if p_value is None else "p < 0.001" if p_value < 0.001 else f"p {p_value:.3f}"
    return Text(number(difference.value, form), ends, last=chance)


def quote_text(row: QuotedRow, column: Column) -> Text:
    """Return what is published for a column."""
    quote = row.quotes.get((column.benchmark, column.metric))
    if quote is None:
        return NOTHING
    value = "" if quote.value is None else number(quote.value, ".2f")
    difference = "" if quote.difference is None else f"Δ {number(quote.difference, '+.2f')}"
    return Text((value or difference) + DOUBLE_DAGGER, difference if value else "")


def score_rows(table: Comparison) -> Iterator[tuple[str, list[Text]]]:
    """Yield the rows of a table: the scores, then the differences from the baseline."""
    columns = list(enumerate(table.columns))
    for index, row in enumerate(table.rows):
        seeds = f" ({len(row.runs)} seeds)" if len(row.runs) > 1 else ""
        yield row.label + seeds, [score_text(table.cells.get((index, place)), column) for place, column in columns]
    for index, row in enumerate(table.rows):
        if table.baseline is not None and index != table.baseline:
            cells = [(table.cells.get((index, place)), column) for place, column in columns]
            label = f"Δ {row.label} − {table.rows[table.baseline].label}"
            yield label, [difference_text(cell.difference if cell else None, column) for cell, column in cells]


def column_heads(table: Comparison) -> list[tuple[str, str]]:
    """Return title and number of items of each column."""
    heads = []
    for index, column in enumerate(table.columns):
        counts = {cell.n for (_, place), cell in table.cells.items() if place == index and cell.n is not None}
        heads.append((column.title, f"n={'/'.join(map(str, sorted(counts)))}" if counts else ""))
    return heads


def category_rows(table: Comparison, number_of_table: int) -> Iterator[tuple[str, list[Text]]]:
    """Yield the rows of a table by category: items, and for each row of the main table score and difference."""
    of_category = table.categories[number_of_table]
    form = f".{of_category.column.digits}f"
    for name, count in of_category.counts.items():
        cells = [Text(str(count))]
        for index, _ in enumerate(table.rows):
            cell = of_category.cells[index].get(name)
            if cell is None:
                cells.append(NOTHING)
            elif cell.difference is None:
                cells.append(Text(number(cell.mean, form)))
            else:
                cells.append(Text(number(cell.mean, form), difference_text(cell.difference, of_category.column).plain))
        yield name or "(none)", cells


def notes_of(model: ModelReport) -> list[str]:
    """Return why scores are incomplete or missing, and what else a reader should know about the rows."""
    notes = []
    if model.main.baseline is None:
        notes.append(
            f"nothing is compared: no run has the initial weights of {model.block.model}, or was given as --base"
        )
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for table in [model.main, *(comparison for _, comparison in model.ablations)]:
        for (index, column), cell in table.cells.items():
            for note in cell.notes:
                rows.setdefault((table.columns[column].benchmark, note), {})[table.rows[index].label] = None
    shown = {column.benchmark for column in model.columns}
    for row in model.block.all_rows:
        steps = sorted({run.summary.steps for run in row.runs})
        if len(steps) > 1:
            notes.append(f"{row.label}: its runs were evaluated at different steps, {', '.join(map(str, steps))}")
        for run in row.runs:
            for name, result in run.summary.benchmarks.items():
                if name not in shown:
                    rows.setdefault((name, f"not scored; {' '.join(result.warnings)}"), {})[row.label] = None
            for name, reason in run.summary.left_out.items():
                rows.setdefault((name, f"not asked: {reason}"), {})[row.label] = None
    return notes + [f"{name} ({', '.join(labels)}): {note}" for (name, note), labels in rows.items()]


RUN_HEADS = ("row", "seed", "weights", "step", "checkpoint", "training", "data", "versions", "evaluated", "run")
"""Columns of the table of runs; digests are cut to twelve digits."""


def run_rows(model: ModelReport) -> Iterator[list[str]]:
    """Yield a line about each run: what was evaluated, and what is needed to do it again."""
    for row in model.block.all_rows:
        for run in row.runs:
            summary = run.summary
            versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
            digest = sha256_of(summary.training)[:12] if summary.training else "–"
            yield [
                row.label if row.label == row.method else f"{row.method}, {row.label}",
                "–" if run.seed is None else str(run.seed),
                summary.weights,
                str(summary.steps),
                summary.checkpoint_sha256[:12] or "–",
                digest,
                summary.data_digest[:12] or "–",
                versions or "–",
                summary.finished or "–",
                run.uri,
            ]


def scoring_rows(model: ModelReport) -> Iterator[tuple[str, str]]:
    """Yield (benchmark, what its scores depend on besides the model); the same for all runs that are compared."""
    parts: dict[str, list[str]] = {}
    for row in model.block.all_rows:
        unparsed: dict[str, list[float]] = {}
        for run in row.runs:
            for name, result in run.summary.benchmarks.items():
                if name not in parts:
                    parts[name] = [
                        f"{key}: {value}" for key, value in provenance_of(run.summary, name).items() if value
                    ]
                    if name not in run.items:
                        parts[name].append("no scores of items, so differences have no intervals")
                if "unparsed_rate" in result.metrics:
                    unparsed.setdefault(name, []).append(result.metrics["unparsed_rate"])
        for name, rates in unparsed.items():
            parts[name].append(f"unparsed in {row.label}: {number(sum(rates) / len(rates))} %")
    for name, said in parts.items():
        yield name, "; ".join(said)


def quoted_sources(model: ModelReport) -> list[str]:
    """Return where each quoted number is from."""
    titles = {(column.benchmark, column.metric): column.title for column in model.columns}
    return [
        f"{row.label}, {titles[place]}: {quote.source}"
        for row in model.quoted
        for place, quote in row.quotes.items()
        if place in titles
    ]
