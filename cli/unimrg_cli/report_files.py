"""Writes a report, and shows meanwhile how far it is."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_cli.report_runs import find_runs
from unimrg_trainer.evaluation.reports.page import as_page
from unimrg_trainer.evaluation.reports.report import make_report
from unimrg_trainer.evaluation.reports.text import as_csv, as_markdown
from unimrg_trainer.files import write_atomically


def write_report(
    targets: Sequence[str],
    base: str | None,
    experiment: str | None,
    tracking_uri: str | None,
    out: Path,
    *,
    quoted: bool,
) -> list[Path]:
    """Compare runs and write the report's files into `out`; return them. Raises UserError for what cannot be read,
    compared or written."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking for runs", total=None)
        runs, left_out = find_runs(
            targets, base, experiment, tracking_uri, lambda name: bar.update(task, description=f"reading {name}")
        )
        report = make_report(
            runs,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            left_out=left_out,
            quoted=quoted,
            on_progress=lambda name: bar.update(task, description=f"comparing {name}"),
        )
        contents = {"html": as_page(report), "md": as_markdown(report), "csv": as_csv(report)}
    files = []
    for suffix, text in contents.items():
        file = out / f"report.{suffix}"
        try:
            write_atomically(file, text)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written: {error.strerror or error}",
                remedy="give another folder with --out",
                exit_code=ExitCode.CONFIGURATION,
            ) from None
        files.append(file)
    return files
