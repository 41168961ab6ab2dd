"""Looks at tables of questions as a job would: are they the published ones, can they be asked, and what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.plugins import load
from unimrg_cli.view import View
from unimrg_trainer.evaluation.benchmarks.published import PUBLISHED
from unimrg_trainer.evaluation.benchmarks.tsv import check_questions, own_table
from unimrg_trainer.evaluation.vlmevalkit.prompts import options
from unimrg_trainer.evaluation.vlmevalkit.tables import file_md5, read_questions
from unimrg_trainer.models.requests import DEFAULT_STYLE, PromptStyle


class TableReport(View):
    """One table of questions."""

    path: str
    benchmark: str
    """As a job names it; `tsv`: none of the published ones."""
    md5: str
    published: bool | None = None
    """Whether it is the published file; None for a table of one's own."""
    rows: int = 0
    """Rows that are asked."""
    expected_rows: int | None = None
    """Rows that are asked of the published file."""
    without_image: int = 0
    """Rows that are left out because they show no image."""
    images: int = 0
    columns: list[str] = Field(default=[])
    answers: dict[str, int] = Field(default={})
    """Answer → rows."""
    vanished: list[str] = Field(default=[])
    """Options that read as missing, as in VLMEvalKit."""
    remarks: list[str] = Field(default=[])
    """What makes its scores doubtful."""
    problem: str | None = None
    """Why a job refuses it."""
    style: str = ""
    prompt: str | None = None
    """What the first row asks."""


def examine(paths: Sequence[Path], family: str | None) -> list[TableReport]:
    """Return a report for each table, folders' in the order of names. Raises UserError (66) where there is none."""
    style = _style(family)
    files: list[Path] = []
    for path in paths:
        found = sorted(one for one in path.glob("*.tsv") if one.is_file()) if path.is_dir() else [path]
        if not found or not all(one.is_file() for one in found):
            raise UserError(
                f"{path} is no table and no folder with one (*.tsv)",
                remedy="docs/how-to/evaluation.md says where the tables come from",
                exit_code=ExitCode.INPUT_MISSING,
            )
        files += found
    return [_examine(file, style) for file in files]


def trouble(reports: Sequence[TableReport]) -> UserError | None:
    """Return the error to end with if a job would refuse one of the tables."""
    refused = [report.path for report in reports if report.problem is not None]
    if not refused:
        return None
    return UserError(
        f"{len(refused)} of {len(reports)} tables would be refused: {', '.join(refused)}",
        remedy="see what is said of each above",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def _style(family: str | None) -> PromptStyle:
    if family is None:
        return DEFAULT_STYLE
    from unimrg_trainer.models.registry import FAMILIES  # brings torch

    style: PromptStyle = load("unimrg.families", FAMILIES, family, field="--family").prompt_style
    return style


def _examine(path: Path, style: PromptStyle) -> TableReport:
    rules = next((rules for rules in PUBLISHED.values() if rules.source and rules.source.file == path.name), None)
    source = rules.source if rules else None
    md5 = file_md5(path)
    report = TableReport(
        path=str(path),
        benchmark=rules.name if rules else "tsv",
        md5=md5,
        published=md5 == source.md5 if source else None,
        expected_rows=source.rows if source else None,
        style=style.name,
    )
    problems = []
    if source and md5 != source.md5:
        problems.append(f"MD5 is not {source.md5}: fetch {source.url}, or set anyFile: true")
    try:
        table = read_questions(path, md5)
        rules = rules or own_table("MultipleChoice" if any(options(row) for row in table.rows) else "YesNo")
        report = report.model_copy(
            update={
                "rows": len(table.rows),
                "without_image": table.without_image,
                "images": len({row["image_id"] for row in table.rows}),
                "columns": sorted({name for row in table.rows for name in row} - {"image_id"}),
                "answers": dict(sorted(Counter(row["answer"] for row in table.rows).items())),
                "vanished": list(table.vanished),
                "prompt": rules.prompt(table.rows[0], style),
            }
        )
        check_questions(rules, table)
        report = report.model_copy(update={"remarks": rules.doubts(table.rows)})
        if not report.published:
            table.check_images(row["index"] for row in table.rows)
    except UserError as error:
        problems.append(error.message)
    return report.model_copy(update={"problem": "; ".join(problems) or None})
