"""The `unimrg` command. Every command imports what it needs when it runs, so help and validation are instant.

The modules of commands evaluate their annotations at once (no `from __future__ import annotations`): typer would
compile each one's text at every start.
"""

from __future__ import annotations

import atexit
import gc
import os
from typing import Annotated

import typer

from unimrg_api.exit_codes import ExitCode
from unimrg_cli.cluster_commands import cluster_app
from unimrg_cli.data_commands import data_app
from unimrg_cli.eval_commands import eval_app
from unimrg_cli.job_commands import job_app
from unimrg_cli.report_command import report_app
from unimrg_cli.run_commands import checkpoints_app, tracking_app
from unimrg_cli.sweep_command import sweep_app

app = typer.Typer(
    name="unimrg",
    help="Post-train unified multimodal models with UniMRG: the same job file on a laptop and on a cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(job_app)
app.add_typer(sweep_app)
app.add_typer(report_app)
app.add_typer(cluster_app)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(checkpoints_app, name="ckpt")
app.add_typer(tracking_app, name="track")


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


def main() -> None:
    """Run the command line and end the process with an exit code (docs/reference/exit_codes.md)."""
    # Pydantic would look for plugins in every installed package, which takes longer than to read a job
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    atexit.register(gc.freeze)  # the last search for garbage, of a process that ends, takes as long as a check
    try:
        app(prog_name="unimrg")
    except SystemExit as end:
        # 2 and 1 are typer's own codes, for wrong usage and for Ctrl-C at a prompt
        codes = {2: ExitCode.CONFIGURATION, 1: ExitCode.INTERRUPTED_TWICE}
        code = end.code if isinstance(end.code, int) else 0
        raise SystemExit(int(codes.get(code, code))) from None
    except KeyboardInterrupt:
        raise SystemExit(int(ExitCode.INTERRUPTED_TWICE)) from None
    except Exception as error:
        from unimrg_cli.errors import show_error

        raise SystemExit(int(show_error(error))) from None


if __name__ == "__main__":
    main()
