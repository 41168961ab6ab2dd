"""The commands `unimrg ckpt …` and `unimrg track …`, about what a run has stored.

Each imports what it needs when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from unimrg_cli.options import OutputOption, Target

checkpoints_app = typer.Typer(
    help="Checkpoints of a run, and published weights in and out.", no_args_is_help=True, rich_markup_mode=None
)
tracking_app = typer.Typer(help="Records of a run in MLflow.", no_args_is_help=True, rich_markup_mode=None)


@checkpoints_app.command("ls")
def list_command(target: Target, output: OutputOption = "table") -> None:
    """List the committed checkpoints of a run, newest first, and those that are quarantined."""
    import json

    from unimrg_cli.run_view import open_run
    from unimrg_trainer.checkpoint.reader import inspect_commits, inspect_quarantined

    store = open_run(target)
    checkpoints = [*inspect_commits(store), *inspect_quarantined(store)]
    checkpoints.sort(key=lambda one: (one.step, one.generation), reverse=True)
    if output == "json":
        typer.echo(json.dumps([item.model_dump(by_alias=True) for item in checkpoints], indent=2))
        return
    from unimrg_cli.tables import print_checkpoints

    print_checkpoints(store.uri, checkpoints, digests=False)


@checkpoints_app.command("verify")
def verify_command(
    target: Target,
    step: Annotated[int | None, typer.Option("--step", help="Only this step's. (default: all)")] = None,
    output: OutputOption = "table",
) -> None:
    """Compare every byte of a run's checkpoints with its digest.

    Nothing is changed.
    """
    import json

    from unimrg_cli.checkpoints import damage, verify
    from unimrg_cli.tables import print_checkpoints

    reports = verify(target, step)
    if output == "json":
        typer.echo(json.dumps([item.model_dump(by_alias=True) for item in reports], indent=2))
    else:
        print_checkpoints(target, reports, digests=True)
    error = damage(reports)
    if error is not None:
        raise error


@checkpoints_app.command("prune")
def prune_command(
    target: Target,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete. Without it the command only shows what it would.")
    ] = False,
    keep_last: Annotated[int | None, typer.Option("--keep-last", min=1, help="Instead of the job's keepLast.")] = None,
    keep_every: Annotated[
        int | None, typer.Option("--keep-every", min=1, help="Instead of the job's keepEvery.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Delete the checkpoints that a run no longer needs.

    That is what retention does not keep and what killed writers left; never the newest two.
    """
    from unimrg_cli.checkpoints import prune

    prune(target, keep_last, keep_every, confirmed=yes, as_json=output == "json")


ModelName = Annotated[str, typer.Argument(help="Family and size as a job names them: FAMILY/VARIANT.")]
FileOption = Annotated[str, typer.Option("--file", help="Which of the model's files; a wrong name lists them.")]


@checkpoints_app.command("import")
def import_command(
    model: ModelName,
    source: Annotated[Path, typer.Argument(help="Published file, or folder of files.")],
    target: Annotated[
        Path | None, typer.Argument(help="Safetensors file to write. (default: the cache, for a frozen encoder)")
    ] = None,
    file: FileOption = "model",
    partial: Annotated[bool, typer.Option("--partial", help="Allow a file that holds a part of the weights.")] = False,
) -> None:
    """Turn published weights into what a job reads.

    Says what matched, is missing and is left over.
    """
    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.weights import import_published

    typer.echo("\n".join(import_published(model, source, target, file, partial=partial)))


@checkpoints_app.command("export")
def export_command(
    model: ModelName,
    source: Annotated[str, typer.Argument(help="Safetensors file, or a run: its job's file, its folder or URI.")],
    target: Annotated[Path, typer.Argument(help="File to write: .pth, or .safetensors.")],
    file: FileOption = "model",
) -> None:
    """Write weights in the published layout, byte for byte.

    They are a file's, or those of a run's newest checkpoint.
    """
    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.weights import export_published

    typer.echo("\n".join(export_published(model, source, target, file)))


@tracking_app.command("sync")
def sync_command(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The job's file, the run's folder or URI, or a pod's saved folder.")
    ],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow server as seen from here. (default: the job's)")
    ] = None,
) -> None:
    """Send MLflow what it lacks of a run, and close the run there.

    For runs that nothing works on any more: whose job was deleted or whose machine was lost, and for what was written
    while MLflow was away. May be repeated.
    """
    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.track import sync

    raise typer.Exit(sync(target, tracking_uri))
