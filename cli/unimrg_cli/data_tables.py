"""Prints what is known about prepared data as tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.filesize import decimal as size

from unimrg_cli.data_stats import Spread, StatsReport
from unimrg_cli.data_view import DatasetReport
from unimrg_cli.printing import Side, print_rows, print_table, table_console
from unimrg_trainer.data.verify import Finding

_SPREAD: dict[str, Side] = {"MINIMUM": "right", "MEDIAN": "right", "95 %": "right", "MAXIMUM": "right"}
_ISSUES: dict[str, Side] = {"SPLIT": "left", "ITEMS": "right", "LEFT OUT": "right", "WHY": "left", "NAMES": "fold"}
_NAMES = 3
"""Names of items with issues that the table has; JSON has all that the manifest has."""
_ANSWER_LENGTH = 80


def print_datasets(reports: Sequence[DatasetReport]) -> None:
    """Print the splits of each data set."""
    console = table_console()
    columns: dict[str, Side] = {
        "SPLIT": "left",
        "SAMPLES": "right",
        "IMAGES": "right",
        "QUESTIONS": "right",
        "SHARDS": "right",
        "SIZE": "right",
        "MAPS": "fold",
        "MEMBERS": "fold",
    }
    for number, report in enumerate(reports):
        if number:
            console.print()
        print_rows(console, [("data set", report.uri), ("digest", report.digest)])
        rows = (
            (one.split, f"{one.samples:,}", f"{one.images:,}", f"{one.questions:,}", f"{one.shards:,}", size(one.bytes),
             ", ".join(f"{name} {count:,}" for name, count in one.maps.items()) or "-", ", ".join(one.members))
            for one in report.splits
        )  # fmt: skip
        print_table(console, columns, rows)
        issues = [
            (one.split, f"{issue.count:,}", f"{issue.left_out:,}", reason, ", ".join(issue.names[:_NAMES]))
            for one in report.splits for reason, issue in one.issues.items()
        ]  # fmt: skip
        if issues:
            console.print()
            print_table(console, _ISSUES, issues)
        console.print()
        known = {json.dumps(one.provenance, sort_keys=True): one.provenance for one in report.splits if one.provenance}
        for provenance in known.values():
            print_rows(console, [(name, json.dumps(value)) for name, value in provenance.items() if value])


def print_findings(uris: Sequence[str], findings: Sequence[Finding]) -> None:
    """Print what is damaged, a line each, or that nothing is."""
    console = table_console()
    for finding in findings:
        console.print(f"{finding.split}: {finding.problem}", markup=False, highlight=False, soft_wrap=True)
    if not findings:
        for uri in uris:
            console.print(f"{uri}: every byte is as it was written", markup=False, highlight=False, soft_wrap=True)


def print_stats(reports: Sequence[StatsReport]) -> None:
    """Print the distributions of a split of each data set."""
    console = table_console()
    for number, report in enumerate(reports):
        if number:
            console.print()
        _print_stats(console, report)


def _print_stats(console: Console, report: StatsReport) -> None:
    read = f"{report.examined:,} of them were read, evenly spaced" if report.examined < report.samples else "all read"
    head = [
        ("data set", report.uri),
        ("split", report.split),
        ("samples", f"{report.samples:,} ({read})"),
        ("questions", f"{report.questions:,}"),
    ]
    print_rows(console, head)
    console.print()
    rows = (
        (one.name, f"{one.samples:,}", f"{one.share:.1%}", size(one.bytes), size(one.bytes // one.samples))
        for one in report.members
    )
    columns: dict[str, Side] = {
        "MEMBER": "left",
        "SAMPLES": "right",
        "SHARE": "right",
        "BYTES": "right",
        "EACH": "right",
    }
    print_table(console, columns, rows)
    console.print()
    spreads = {
        "questions of a sample": report.questions_per_sample,
        "width, pixels": report.widths,
        "height, pixels": report.heights,
    }
    for kind, texts in report.texts.items():
        spreads |= {f"{kind}, characters": texts.characters, f"{kind}, tokens": texts.tokens}
    shown = ((name, *_cells(spread)) for name, spread in spreads.items() if spread is not None)
    print_table(console, {"DISTRIBUTION": "left", **_SPREAD}, shown)
    for heading, values in (("IMAGE SIZE", report.sizes), ("ANSWER", report.answers)):
        if values:
            console.print()
            print_table(
                console, {"COUNT": "right", heading: "fold"}, [(f"{one.count:,}", _cut(one.value)) for one in values]
            )


def _cells(spread: Spread) -> tuple[str, ...]:
    return tuple(f"{value:,}" for value in (spread.minimum, spread.median, spread.percentile95, spread.maximum))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _ANSWER_LENGTH else f"{line[: _ANSWER_LENGTH - 1]}…"
