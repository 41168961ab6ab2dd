"""The command `unimrg report`: compares evaluated runs and writes Markdown, CSV and a page."""

from pathlib import Path
from typing import Annotated

import typer

report_app = typer.Typer(rich_markup_mode=None)


@report_app.command()
def report(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET]...", help="Runs: folders, URIs, jobs' files, or the file of a sweep."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the report, as HTML, Markdown and CSV.")] = Path(
        "report"
    ),
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="The run that others are compared with. (default: those of which initial weights were scored)",
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Take the runs of an MLflow experiment as well.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow's URI. (default: $MLFLOW_TRACKING_URI)")
    ] = None,
    quoted: Annotated[
        bool, typer.Option("--quoted/--no-quoted", help="Show published numbers, in rows that are marked.")
    ] = True,
) -> None:
    """Compare evaluated runs: methods, seeds and ablations of each base model, on the same items.

    Scores have 95 % intervals, differences paired ones. Runs that were scored differently (rules, prompts, data, judge)
    are not compared: the report is refused and says what differs.
    """
    from unimrg_cli.extras import require

    require("trainer")
    if not targets and experiment is None:
        raise typer.BadParameter("give runs, the file of a sweep, or --experiment", param_hint="TARGET")
    from unimrg_cli.report_files import write_report

    for file in write_report(targets or [], base, experiment, tracking_uri, out, quoted=quoted):
        typer.echo(f"written: {file}")
