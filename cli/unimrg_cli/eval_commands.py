"""The commands `unimrg eval …`, about benchmarks' tables of questions and of replies.

Each imports what it needs when it runs.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unimrg_cli.options import OutputOption, Target

eval_app = typer.Typer(
    help="Benchmarks: check their files, and score tables of replies.", no_args_is_help=True, rich_markup_mode=None
)

Benchmark = Literal["mmbench", "mmvp", "hallusionBench", "realWorldQa", "vsr", "tsv"]
BenchmarkOption = Annotated[Benchmark, typer.Option("--benchmark", "-b", help="As a job names it.")]
Kind = Literal["MultipleChoice", "YesNo"]
RuleSet = Literal["Vk0020", "Vk202606"]


@eval_app.command()
def doctor(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Tables of questions (.tsv), or folders with them.")
    ],
    family: Annotated[
        str | None, typer.Option("--family", help="Show the prompt as this family is asked: harmon, openuni, showo.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Check the files of benchmarks.

    Shows of each what a job would make of it: MD5, columns, counts, options that vanish, and the first prompt.
    """
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.eval_doctor import examine, trouble
    from unimrg_cli.eval_view import print_tables

    reports = examine(paths, family)
    if output == "json":
        typer.echo(json.dumps([report.model_dump(by_alias=True) for report in reports], indent=2))
    else:
        print_tables(reports)
    error = trouble(reports)
    if error is not None:
        raise error


@eval_app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A table of replies: .tsv, .json, .xlsx or .csv.")
    ],
    benchmark: BenchmarkOption,
    rule_set: Annotated[RuleSet, typer.Option("--rule-set", help="How answers are read out of replies.")] = "Vk0020",
    kind: Annotated[Kind, typer.Option("--kind", help="What the questions of a `tsv` ask for.")] = "MultipleChoice",
    against: Annotated[
        Path | None, typer.Option("--against", help="VLMEvalKit's table of results (.csv) to compare with.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Score a table of replies, VLMEvalKit's or that of a run.

    Nothing is kept, so a table that changed has other scores.
    """
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.eval_scores import disagreement, score_predictions
    from unimrg_cli.eval_view import print_scores

    report = score_predictions(predictions, benchmark, kind, rule_set, against)
    if output == "json":
        typer.echo(json.dumps(report.model_dump(by_alias=True), indent=2))
    else:
        print_scores(report)
    error = disagreement(report)
    if error is not None:
        raise error


@eval_app.command()
def export(
    target: Target,
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="Of which benchmark; a wrong name lists them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, .tsv.")],
) -> None:
    """Write a run's table of replies as VLMEvalKit's scorers read it."""
    from unimrg_cli.eval_scores import export_predictions

    typer.echo(export_predictions(target, benchmark, out))
