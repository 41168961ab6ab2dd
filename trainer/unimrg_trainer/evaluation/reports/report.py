"""All of a report as values, before it is written as Markdown, CSV or a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unimrg_trainer.evaluation.reports.columns import Column, columns_of
from unimrg_trainer.evaluation.reports.comparison import Comparison, OnProgress, compare_rows
from unimrg_trainer.evaluation.reports.flips import Flips, flips_of
from unimrg_trainer.evaluation.reports.grouping import Ablation, Block, Row, blocks_of
from unimrg_trainer.evaluation.reports.published import QuotedRow, quoted_rows
from unimrg_trainer.evaluation.reports.runs import EvaluatedRun


@dataclass(frozen=True)
class ModelReport:
    """What is reported about one base model."""

    block: Block
    columns: Sequence[Column]
    main: Comparison
    """The base and the reference of each method, compared with the base."""
    ablations: Sequence[tuple[Ablation, Comparison]]
    """Each compared with its reference."""
    quoted: Sequence[QuotedRow]
    flips: Sequence[Flips]
    """Between the base and each method's reference."""


@dataclass(frozen=True)
class Report:
    """A report on some runs."""

    date: str
    models: Sequence[ModelReport]
    left_out: Sequence[str]
    """Sentences about runs that were asked for and have no results."""


def make_report(
    runs: Sequence[EvaluatedRun],
    *,
    date: str,
    left_out: Sequence[str] = (),
    quoted: bool = True,
    on_progress: OnProgress = lambda _: None,
) -> Report:
    """Compare runs. Raises UserError as `grouping.blocks_of` does; `date` is shown (ISO 8601)."""
    models = []
    for block in blocks_of(runs):
        columns = columns_of(run.summary.benchmarks for row in block.all_rows for run in row.runs)
        baseline = 0 if block.rows and block.rows[0].is_base else None

        def compare(
            rows: Sequence[Row], baseline: int | None, block: Block = block, columns: Sequence[Column] = columns
        ) -> Comparison:
            return compare_rows(rows, columns, baseline, lambda name: on_progress(f"{block.model}: {name}"))

        main = compare(block.rows, baseline)
        ablations = [(ablation, compare(ablation.rows, 0)) for ablation in block.ablations]
        flips = (
            [one for row in block.rows[1:] for one in flips_of(block.rows[0], row, columns)] if baseline == 0 else []
        )
        published = quoted_rows(block.rows[0].runs[0].summary.model) if quoted else []
        models.append(ModelReport(block, columns, main, ablations, published, flips))
    return Report(date, models, left_out)
