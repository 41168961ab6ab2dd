"""The `unimrg` command. Every command imports what it needs when it runs, so that help and validation are
instant."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

USAGE_ERROR = 64
PROGRAM_ERROR = 70
INTERRUPTED = 85
INTERRUPTED_TWICE = 130
"""As in `unimrg_api.exit_codes`, which is not imported just to show help."""

app = typer.Typer(
    name="unimrg",
    help="Post-train unified multimodal models with UniMRG: the same job file on a laptop and on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
checkpoints_app = typer.Typer(help="Look at the checkpoints of a run.", no_args_is_help=True)
app.add_typer(checkpoints_app, name="ckpt")


class Output(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How to print."""

    TABLE = "table"
    JSON = "json"


JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job, a YAML or JSON file.")]
Target = Annotated[str, typer.Argument(metavar="FILE_OR_RUN_URI", help="The job's file, or the run's folder or URI.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"unimrg {version('unimrg')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def validate(file: JobFile) -> None:
    """Check a job: every problem at once, each with its line and what to write instead."""
    from unimrg_cli.check import check_job

    job, notes = check_job(file)
    typer.echo(f"{file}: {job.metadata.name} is a valid job")
    for note in notes:
        typer.echo(f"note: {note}")


@app.command()
def run(
    file: JobFile,
    processes: Annotated[
        int | None,
        typer.Option("--processes", "-p", min=1, max=64, help="Training processes on this machine."),
    ] = None,
) -> None:
    """Run a job on this machine: prepare, train, evaluate. Run it again to go on from the last checkpoint."""
    from unimrg_trainer.launch.signals import StopRequest  # signals are heeded before anything that takes time

    with StopRequest().installed() as stop:
        try:
            with stop.raising():
                from unimrg_cli.check import check_job
                from unimrg_cli.extras import require_trainer

                job, _ = check_job(file)
                require_trainer()
                from unimrg_trainer.launch.local import run_job
        except KeyboardInterrupt:
            sys.stderr.write("interrupted before anything began\n")
            raise typer.Exit(INTERRUPTED_TWICE if stop.twice else INTERRUPTED) from None
        code = run_job(job, file, processes, stop=stop)
    raise typer.Exit(code)


@app.command()
def status(target: Target, output: OutputOption = Output.TABLE) -> None:
    """Show where a run stands: progress, losses, last checkpoint, results."""
    from unimrg_cli.run_view import describe_run

    description = describe_run(target)
    if output is Output.JSON:
        typer.echo(description.model_dump_json(by_alias=True, exclude_none=True, indent=2))
        return
    from unimrg_cli.tables import print_run

    print_run(description)


@checkpoints_app.command("ls")
def list_command(target: Target, output: OutputOption = Output.TABLE) -> None:
    """List the committed checkpoints of a run, newest first."""
    import json

    from unimrg_cli.checkpoint_list import list_checkpoints
    from unimrg_cli.run_view import open_run

    store = open_run(target)
    checkpoints = list_checkpoints(store)
    if output is Output.JSON:
        rows = [{**item.model_dump(by_alias=True), "sizesVerified": item.sizes_verified} for item in checkpoints]
        typer.echo(json.dumps(rows, indent=2))
        return
    from unimrg_cli.tables import print_checkpoints

    print_checkpoints(store.uri, checkpoints)


def main() -> None:
    """Run the command line and end the process: 0, a code of seams.md §1, or 64 for wrong usage."""
    try:
        app(prog_name="unimrg")
    except SystemExit as end:
        # 2 and 1 are the toolkit's own codes, for wrong usage and for Ctrl-C at a prompt
        raise SystemExit({2: USAGE_ERROR, 1: INTERRUPTED_TWICE}.get(_code(end), end.code)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED_TWICE) from None
    except Exception as error:
        raise SystemExit(_report(error)) from None


def _code(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else 0


def _report(error: Exception) -> int:
    from unimrg_api.errors import Interrupted, UserError
    from unimrg_cli.errors import show_bug, show_user_error

    if isinstance(error, UserError):
        show_user_error(error)
        return int(error.exit_code)
    if isinstance(error, Interrupted):
        sys.stderr.write(f"{error.message}\n")
        return int(error.exit_code)
    show_bug(error)
    return PROGRAM_ERROR


if __name__ == "__main__":
    main()
