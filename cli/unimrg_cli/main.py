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


class Stage(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """A stage of a job; the phases of `unimrg_api.progress`."""

    CHECK = "check"
    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    FINISH = "finish"


JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job, a YAML or JSON file.")]
Target = Annotated[str, typer.Argument(metavar="FILE_OR_RUN_URI", help="The job's file, or the run's folder or URI.")]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name on the cluster.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the context's)")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Kubeconfig. (default: $KUBECONFIG, else ~/.kube/config)")
]
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
                from unimrg_cli.check import check_job, stands_at
                from unimrg_cli.extras import require_trainer

                job, _ = check_job(file)
                require_trainer()
                from unimrg_trainer.launch.local import run_job
        except KeyboardInterrupt:
            sys.stderr.write("interrupted before anything began\n")
            raise typer.Exit(INTERRUPTED_TWICE if stop.twice else INTERRUPTED) from None
        code = run_job(job, stands_at(file), processes, stop=stop)
    raise typer.Exit(code)


@app.command()
def status(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The job's file, the run's folder or URI, or the name of a job.")
    ],
    output: OutputOption = Output.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show where a run stands: progress, losses, last checkpoint, results.

    TARGET is the name of a job on a cluster if no file or folder has that name,
    or if -n, --context or --kubeconfig is given.
    """
    from unimrg_cli.run_view import names_cluster_job

    asked = any((namespace, context, kubeconfig))
    if names_cluster_job(target, asked=asked):
        _cluster_status(target, output, namespace, context, kubeconfig, asked)
        return
    from unimrg_cli.run_view import describe_run

    description = describe_run(target)
    if output is Output.JSON:
        typer.echo(description.model_dump_json(by_alias=True, exclude_none=True, indent=2))
        return
    from unimrg_cli.tables import print_run

    print_run(description)


def _cluster_status(
    name: str, output: Output, namespace: str | None, context: str | None, kubeconfig: Path | None, asked: bool
) -> None:
    from unimrg_api.errors import UserError
    from unimrg_cli.cluster_tables import print_cluster_job
    from unimrg_cli.cluster_view import read_job
    from unimrg_cli.extras import require_operator

    try:
        require_operator()
        from unimrg_cli.cluster_client import connect

        job = read_job(connect(namespace, context, kubeconfig).job(name))
    except UserError as error:
        if asked:
            raise
        message = f"no file or folder here is called {name}; looking for a job of that name: {error.message}"
        raise UserError(message, remedy=error.remedy, exit_code=error.exit_code) from None
    if output is Output.JSON:
        typer.echo(job.model_dump_json(by_alias=True, exclude_none=True, indent=2))
    else:
        print_cluster_job(job)


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition of jobs: unimrg crd | kubectl apply -f -"""
    from unimrg_api.crd import crd_yaml

    typer.echo(crd_yaml(), nl=False)


@app.command()
def render(
    file: JobFile,
    profile: Annotated[Path | None, typer.Option("--profile", help="The cluster's site profile, a YAML file.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's, else `default`)")
    ] = None,
    stage: Annotated[Stage | None, typer.Option("--stage", help="One stage only.")] = None,
) -> None:
    """Print what a cluster would be given for a job: the first attempt of each stage, as YAML. Asks no cluster."""
    from unimrg_cli.check import check_cluster_job, namespace_of
    from unimrg_cli.extras import require_operator

    job, _ = check_cluster_job(file)
    require_operator()
    from unimrg_cli.render import render_job

    wanted = stage.value if stage is not None else None
    typer.echo(render_job(job, profile, namespace_of(job, namespace), wanted), nl=False)


@app.command()
def submit(
    file: JobFile,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's or the context's)")
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the cluster check it, and create nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the job has ended; end with its exit code.")] = False,
) -> None:
    """Create a job on a cluster, once its file and what a cluster asks of it are checked."""
    from unimrg_cli.check import check_cluster_job, namespace_of
    from unimrg_cli.extras import require_operator

    if dry_run and wait:
        raise typer.BadParameter("a dry run creates nothing to wait for", param_hint="--wait")
    job, document = check_cluster_job(file)
    require_operator()
    from unimrg_cli.cluster_client import connect
    from unimrg_cli.submit import create, next_commands, watch

    cluster = connect(namespace_of(job, namespace), context, kubeconfig)
    created = create(cluster, document, file, dry_run=dry_run)
    where = f"UniMRGJob {created.name} in namespace {created.namespace}"
    if dry_run:
        typer.echo(f"the cluster would take the {where}; nothing was created")
        return
    typer.echo(f"created the {where}. Next:")
    for command in next_commands(created, context, kubeconfig):
        typer.echo(f"  {command}")
    if wait:
        raise typer.Exit(watch(cluster, created))


@app.command()
def logs(
    name: JobName,
    namespace: NamespaceOption = None,
    stage: Annotated[
        Stage | None, typer.Option("--stage", help="Stage. (default: the one that failed, else the newest)")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Attempt of the stage. (default: the newest)")
    ] = None,
    node: Annotated[str, typer.Option("--node", help="Rank of the node, or `all`.")] = "0",
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Lines at the end. (default: all)")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pods have ended.")] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show what a job's pods on a cluster write."""
    from unimrg_cli.extras import require_operator

    if node != "all" and not (node.isascii() and node.isdigit()):
        raise typer.BadParameter(f"{node!r} is neither a rank from 0 nor `all`", param_hint="--node")
    require_operator()
    from unimrg_cli.cluster_client import connect
    from unimrg_cli.pod_logs import Selection, show_logs

    rank = None if node == "all" else int(node)
    wanted = Selection(stage.value if stage is not None else None, attempt, rank, tail, follow)
    show_logs(connect(namespace, context, kubeconfig), name, wanted)


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
