"""The commands `unimrg eval …`, about benchmarks' tables of questions and of replies, and their images.

Each imports what it needs when it runs.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unimrg_cli.options import OutputOption, Target

eval_app = typer.Typer(
    help="Benchmarks: check their files, score tables of replies, judge images.",
    no_args_is_help=True,
    rich_markup_mode=None,
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
        str | None, typer.Option("--family", help="Show the prompt as this family is asked; a wrong name lists them.")
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
def judge(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Images in the layout of the benchmark, as a run writes them.")
    ],
    benchmark: Annotated[
        Literal["genEval", "dpgBench"], typer.Option("--benchmark", "-b", help="As a job names it.")
    ] = "genEval",
    detector: Annotated[str | None, typer.Option("--detector", help="As genEval.detector of a job.")] = None,
    colours: Annotated[str | None, typer.Option("--colours", help="As genEval.colours of a job.")] = None,
    answerer: Annotated[str | None, typer.Option("--judge", help="As dpgBench.judge of a job.")] = None,
    files: Annotated[
        str | None, typer.Option("--files", help="Folder with dpg_bench/dpg_bench.csv, as stages.evaluate.files.")
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option("--images-per-prompt", help="Those of DPG-Bench; missing ones are counted.", min=1)
    ] = 4,
    reference_compat: Annotated[
        bool, typer.Option("--reference-compat", help="As dpgBench.referenceCompat of a job.")
    ] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where the judges run.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write decisions or answers to.")] = None,
    output: OutputOption = "table",
) -> None:
    """Judge images that were generated: by a run without judges, by published scripts, or photographs as a check.

    Places of weights are file://PATH, s3://BUCKET/PREFIX or hf://OWNER/NAME@COMMIT.
    """
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.eval_images import judge_images
    from unimrg_cli.eval_view import print_judged

    settings = {
        "imagesPerPrompt": images_per_prompt,
        "detector": detector,
        "colours": colours,
        "judge": answerer,
        "referenceCompat": reference_compat,
    }
    report = judge_images(folder, benchmark, settings, files, device, out)
    if output == "json":
        typer.echo(json.dumps(report.model_dump(by_alias=True), indent=2))
    else:
        print_judged(report)


@eval_app.command()
def export(
    target: Target,
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="Of which benchmark; a wrong name lists them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, .tsv.")],
) -> None:
    """Write a run's table of replies as VLMEvalKit's scorers read it."""
    from unimrg_cli.eval_scores import export_predictions

    typer.echo(export_predictions(target, benchmark, out))
