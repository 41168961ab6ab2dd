"""The commands `unimrg data …`, about images, maps and texts that are prepared for training.

Each imports what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimrg_api.texts import counted
from unimrg_cli.options import JobFile, OutputOption

if TYPE_CHECKING:
    from unimrg_cli.data_prepare import PreparedReport

data_app = typer.Typer(
    help="Data of a job: prepare it, and look at what is prepared.", no_args_is_help=True, rich_markup_mode=None
)

DataTarget = Annotated[
    str,
    typer.Argument(
        metavar="FILE_OR_URI", help="The job's file, the folder or URI of prepared data, or that of one data set in it."
    ),
]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", "-p", min=1, max=64, help="Processes. (default: the job's, else 1)")
]
SplitOption = Annotated[str, typer.Option("--split", help="train, heldOut or preview.")]


@data_app.command()
def prepare(file: JobFile, processes: ProcessesOption = None, output: OutputOption = "table") -> None:
    """Prepare the data of a job on this machine, and do nothing else.

    It lies at the job's spec.data.shards then. What is there already is not made again, so the same command goes on
    where it was.
    """
    from unimrg_cli.check import check_job, stands_at
    from unimrg_cli.extras import require

    job, _ = check_job(file)
    require("trainer")
    from unimrg_cli.data_prepare import prepare_here

    _show(prepare_here(job, stands_at(file), processes), output)


@data_app.command()
def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of images, LLaVA's annotations (.json, .jsonl), a folder of WebDataset tars, or tars by "
            "number (part-{000..127}.tar); paths or URIs.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="Folder or URI to write the data set to.")],
    images: Annotated[str | None, typer.Option("--images", help="Of annotations: the folder of their images.")] = None,
    held_out: Annotated[
        int, typer.Option("--held-out", min=1, help="Samples that are kept for evaluations and not trained on.")
    ] = 64,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Under which licence the images may be used; it is noted.")
    ] = None,
    max_bad_fraction: Annotated[
        str, typer.Option("--max-bad-fraction", help="Part of all items that may be left out.")
    ] = "0.01",
    processes: ProcessesOption = None,
    output: OutputOption = "table",
) -> None:
    """Prepare images without a job's file.

    Jobs that name the folder in spec.data.shards and no sources train on it. What needs models, maps that do not exist
    yet and encodings, is prepared for a job's file only.
    """
    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.data_prepare import pack_here

    common = {"heldOut": held_out, **({"licence": licence} if licence is not None else {})}
    _show(pack_here(source, out, images, common, max_bad_fraction, processes), output)


def _show(found: PreparedReport, output: str) -> None:
    if output == "json":
        typer.echo(found.model_dump_json(by_alias=True, indent=2))
    else:
        typer.echo(f"{'found in' if found.reused else 'written to'} {found.uri}")
        for reason, count in found.issues.items():
            typer.echo(f"note: {counted(count, 'item')}: {reason} (`unimrg data inspect` names them)", err=True)


@data_app.command()
def inspect(target: DataTarget, output: OutputOption = "table") -> None:
    """List data sets with their splits, counts and members.

    Manifests and a few indices are read; nothing is compared (see `unimrg data verify`).
    """
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.data_view import describe, locate

    reports = [describe(place) for place in locate(target)]
    if output == "json":
        typer.echo(json.dumps([report.model_dump(by_alias=True) for report in reports], indent=2))
        return
    from unimrg_cli.data_tables import print_datasets

    print_datasets(reports)


@data_app.command()
def verify(
    target: DataTarget,
    split: Annotated[str | None, typer.Option("--split", help="Only this split. (default: all)")] = None,
    output: OutputOption = "table",
) -> None:
    """Compare every byte of prepared data with its digest.

    Names each damaged sample, and ends with exit code 65 if there is any. Nothing is changed.
    """
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.data_tables import print_findings
    from unimrg_cli.data_view import damage, locate
    from unimrg_cli.data_view import verify as compare

    places = locate(target)
    findings = {place.uri: compare(place, split) for place in places}
    damaged = [finding for found in findings.values() for finding in found]
    if output == "json":
        shown = [
            {"uri": uri, "damaged": [finding.model_dump(by_alias=True) for finding in found]}
            for uri, found in findings.items()
        ]
        typer.echo(json.dumps(shown, indent=2))
    else:
        print_findings(list(findings), damaged)
    error = damage(damaged)
    if error is not None:
        raise error


@data_app.command()
def stats(
    target: DataTarget,
    split: SplitOption = "train",
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Samples to read, evenly spaced; counts and bytes are exact.")
    ] = 1000,
    output: OutputOption = "table",
) -> None:
    """Show distributions of each data set: sizes of images, lengths of texts, answers, which maps samples have, bytes.

    Lengths are in tokens, too, where a job's file is given.
    """
    from unimrg_cli.extras import require

    require("trainer")
    import json

    from unimrg_cli.data_stats import measure, token_counter
    from unimrg_cli.data_view import locate

    places = locate(target)
    count_tokens, problem = token_counter(target)
    if problem:
        typer.echo(f"note: tokens are not counted: {problem}", err=True)
    reports = [measure(place, split, samples, count_tokens) for place in places]
    if output == "json":
        typer.echo(json.dumps([report.model_dump(by_alias=True) for report in reports], indent=2))
        return
    from unimrg_cli.data_tables import print_stats

    print_stats(reports)


@data_app.command()
def preview(
    target: DataTarget,
    out: Annotated[Path, typer.Option("--out", help="File to write: .png, or .html with all texts.")],
    split: SplitOption = "train",
    samples: Annotated[int, typer.Option("--samples", min=1, max=100, help="How many, evenly spaced.")] = 6,
    number: Annotated[
        list[int] | None, typer.Option("--number", help="Show this sample instead, by its number; may be repeated.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Draw samples of each data set: image, maps and texts beside each other, as training reads them."""
    import json

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.data_preview import check_target, read_samples, write_preview
    from unimrg_cli.data_view import locate

    check_target(out)
    places = locate(target)
    shown = [one for place in places for one in read_samples(place, split, number or [], samples)]
    write_preview(out, shown, f"{split} of {', then '.join(place.uri for place in places)}")
    if output == "json":
        typer.echo(json.dumps({"file": str(out), "samples": [one.number for one in shown]}, indent=2))
    else:
        typer.echo(f"{len(shown)} samples of {split} are shown in {out}")
