"""Prints tables of questions and scores of replies."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from unimrg_api.texts import counted
from unimrg_cli.eval_doctor import TableReport
from unimrg_cli.eval_images import JudgedReport
from unimrg_cli.eval_scores import ScoreReport
from unimrg_cli.printing import print_rows, print_table, table_console
from unimrg_trainer.evaluation.summary import titled


def print_tables(reports: Sequence[TableReport]) -> None:
    """Print what is known about each table of questions, and its first prompt."""
    console = table_console()
    for report in reports:
        published = {True: "the published file", False: "not the published file", None: "a table of one's own"}
        expected = (
            "" if report.expected_rows in (None, report.rows) else f" (the published file: {report.expected_rows})"
        )
        vanished = "; ".join(report.vanished[:5]) + ("; …" if len(report.vanished) > 5 else "")
        print_rows(
            console,
            [
                ("table", report.path),
                ("benchmark", report.benchmark),
                ("MD5", f"{report.md5}, {published[report.published]}"),
                ("rows", f"{report.rows}{expected}, {counted(report.images, 'image')}" if report.rows else ""),
                ("left out", f"{report.without_image} rows without an image" if report.without_image else ""),
                ("columns", ", ".join(report.columns)),
                ("answers", ", ".join(f"{answer} {count}" for answer, count in report.answers.items())),
                ("vanished", f"{len(report.vanished)} options read as missing: {vanished}" if vanished else ""),
                *(("remark", remark) for remark in report.remarks),
                ("REFUSED", report.problem or ""),
                ("prompt", f"of the first row, as {report.style} asks:" if report.prompt is not None else ""),
            ],
        )
        if report.prompt is not None:
            console.print(Text(report.prompt), soft_wrap=True)
        console.print()


def print_judged(report: JudgedReport) -> None:
    """Print the scores of images, by whom they are judged, and what makes them doubtful."""
    console = table_console()
    console.print(*titled(report.table)[1:], sep="\n")
    print_rows(console, [*report.provenance.items(), *(("warning", warning) for warning in report.warnings)])


def print_scores(report: ScoreReport) -> None:
    """Print scores by group, what makes them doubtful, and where VLMEvalKit's differ."""
    console = table_console()
    console.print(*titled(report.table)[1:], sep="\n")
    shown = ("unparsed_rate", "empty_rate", "yes_rate", "mean_length")
    rows = [("rule set", f"{report.rule_set}, no judge")]
    rows += [(name, f"{report.metrics[name]:.1f}") for name in shown if name in report.metrics]
    print_rows(console, [*rows, *(("warning", warning) for warning in report.warnings)])
    if report.compared and not report.differences:
        console.print(f"All {report.compared} scores equal VLMEvalKit's.", soft_wrap=True)
    if report.differences:
        values = ((one.metric, f"{one.ours:.4f}", f"{one.theirs:.4f}") for one in report.differences)
        print_table(console, {"METRIC": "left", "HERE": "right", "VLMEVALKIT": "right"}, values)
