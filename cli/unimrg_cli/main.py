"""The `unimrg` command. Every command imports what it needs when it runs, so help and validation are instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StrategyName
from unimrg_api.stages import StageName
from unimrg_cli.options import ContextOption, JobFile, JobName, KubeconfigOption, NamespaceOption, OutputOption
from unimrg_cli.run_commands import checkpoints_app, tracking_app

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer(
    name="unimrg",
    help="Post-train unified multimodal models with UniMRG: the same job file on a laptop and on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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


@app.command()
def validate(file: JobFile) -> None:
    """Check a job's file: every problem at once, each with its line and a remedy."""
    from unimrg_cli.check import check_job

    job, notes = check_job(file)
    typer.echo(f"{file}: {job.metadata.name} is a valid job")
    published = job.spec.model.published
    for note in [*notes, *([published.licence] if published is not None else [])]:
        typer.echo(f"note: {note}")


@app.command()
def plan(
    file: JobFile,
    device: Annotated[str, typer.Option("--device", help="GPU whose memory counts; a wrong name lists them.")] = "H20",
    mfu: Annotated[
        float, typer.Option("--mfu", min=0.01, max=1, help="Share of its peak that useful operations use.")
    ] = 0.4,
    question_tokens: Annotated[int, typer.Option("--question-tokens", min=1, help="Tokens of a question.")] = 150,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=1, help="Tokens of its answer.")] = 150,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of a request.")] = 26,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Images of the data. (default: those that the job generates)")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Compute what a job needs before GPUs are spent: parameters, memory, operations, hours, bytes. Starts nothing.

    Ends with exit code 64, after the plan, where training would refuse the job."""
    from unimrg_api.arithmetic.plan import Assumed, plan_of
    from unimrg_api.arithmetic.rows import Texts
    from unimrg_api.load import load_job

    job = load_job(file)
    texts = Texts(question_tokens, answer_tokens, prompt_tokens)
    planned = plan_of(job, Assumed(texts, mfu, device, images))
    if output == "json":
        typer.echo(planned.model_dump_json(by_alias=True, indent=2))
    else:
        from unimrg_cli.plan_view import print_plan

        print_plan(planned)
    if planned.refused:
        raise typer.Exit(ExitCode.CONFIGURATION)


@app.command()
def run(
    file: JobFile,
    processes: Annotated[
        int | None, typer.Option("--processes", "-p", min=1, max=64, help="Training processes on this machine.")
    ] = None,
) -> None:
    """Run a job on this machine: prepare, train, evaluate. Run it again to resume from the last checkpoint."""
    from unimrg_trainer.launch.signals import StopRequest  # a signal counts from here on: the imports below take time

    with StopRequest().installed() as stop:
        try:
            with stop.interruptible():
                from unimrg_cli.check import check_job, stands_at
                from unimrg_cli.extras import require

                job, _ = check_job(file)
                require("trainer")
                from unimrg_trainer.launch.local import run_job
        except KeyboardInterrupt:
            sys.stderr.write("interrupted before anything began\n")
            raise typer.Exit(ExitCode.INTERRUPTED_TWICE if stop.twice else ExitCode.INTERRUPTED) from None
        code = run_job(job, stands_at(file), processes, stop=stop)
    raise typer.Exit(code)


@app.command()
def status(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The job's file, the run's folder or URI, or the name of a job.")
    ],
    output: OutputOption = "table",
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show where a run stands: progress, losses, last checkpoint, results.

    TARGET is the name of a job on a cluster if no file or folder has that name,
    or if -n, --context or --kubeconfig is given.
    """
    from unimrg_api.errors import UserError
    from unimrg_cli.run_view import describe_run, names_cluster_job

    explicit = any((namespace, context, kubeconfig))
    if names_cluster_job(target, explicit=explicit):
        from unimrg_cli.cluster_view import read_job
        from unimrg_cli.extras import require

        try:
            require("operator")
            from unimrg_cli.cluster_client import connect

            description: BaseModel = read_job(connect(namespace, context, kubeconfig).job(target))
        except UserError as error:
            if explicit:
                raise
            message = f"no file or folder here is called {target}; looking for a job of that name: {error.message}"
            raise UserError(message, remedy=error.remedy, exit_code=error.exit_code) from None
    else:
        description = describe_run(target)
    if output == "json":
        typer.echo(description.model_dump_json(by_alias=True, exclude_none=True, indent=2))
        return
    from unimrg_cli.tables import print_status

    print_status(description)


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition of jobs: unimrg crd | kubectl apply -f -"""
    from importlib.resources import files

    typer.echo((files("unimrg_api") / "crd.yaml").read_text(encoding="utf-8"), nl=False)


@app.command()
def render(
    file: JobFile,
    profile: Annotated[Path | None, typer.Option("--profile", help="The cluster's site profile, a YAML file.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's, else `default`)")
    ] = None,
    stage: Annotated[StageName | None, typer.Option("--stage", help="One stage only.")] = None,
) -> None:
    """Print the objects that the operator creates for a job's first attempts, as YAML. Needs no cluster."""
    from unimrg_cli.check import check_cluster_job, namespace_of
    from unimrg_cli.extras import require

    job, _ = check_cluster_job(file)
    require("operator")
    from unimrg_cli.render import render_job

    typer.echo(render_job(job, profile, namespace_of(job, namespace), stage), nl=False)


@app.command()
def submit(
    file: JobFile,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's or the context's)")
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate on the server; create nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit with the job's code.")] = False,
) -> None:
    """Check a job's file, also for what only a cluster refuses, and create the job on a cluster."""
    from unimrg_cli.check import check_cluster_job, namespace_of
    from unimrg_cli.extras import require

    if dry_run and wait:
        raise typer.BadParameter("a dry run creates nothing to wait for", param_hint="--wait")
    job, document = check_cluster_job(file)
    require("operator")
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
        StageName | None, typer.Option("--stage", help="Stage. (default: the one that failed, else the newest)")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Attempt of the stage. (default: the newest)")
    ] = None,
    node: Annotated[str, typer.Option("--node", help="Rank of the node, or `all`.")] = "0",
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Lines at the end. (default: all)")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stream the log until the pods have ended.")] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show the logs of a job's pods on a cluster."""
    from unimrg_cli.extras import require

    if node != "all" and not (node.isascii() and node.isdigit()):
        raise typer.BadParameter(f"{node!r} is neither a rank from 0 nor `all`", param_hint="--node")
    require("operator")
    from unimrg_cli.cluster_client import connect
    from unimrg_cli.pod_logs import Selection, show_logs

    rank = None if node == "all" else int(node)
    wanted = Selection(stage, attempt, rank, tail, follow)
    show_logs(connect(namespace, context, kubeconfig), name, wanted)


@app.command()
def selfcheck(
    strategy: Annotated[
        StrategyName | None, typer.Option("--strategy", help="The one to check. (default: all of them)")
    ] = None,
) -> None:
    """Check that each strategy trains as one process does on the installed versions of torch and DeepSpeed."""
    from typing import get_args

    from unimrg_cli.extras import require

    require("trainer")
    from unimrg_cli.tables import print_checks
    from unimrg_trainer.engine.strategies.selfcheck import failure
    from unimrg_trainer.engine.strategies.selfcheck_ranks import check_on_ranks

    names: tuple[StrategyName, ...] = get_args(StrategyName) if strategy is None else (strategy,)
    outcomes = check_on_ranks(names)
    print_checks((outcome.strategy, f"{outcome.error:.1e}", outcome.passed, outcome.case) for outcome in outcomes)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        raise failure(failed)


def main() -> None:
    """Run the command line and end the process with an exit code (docs/reference/exit_codes.md)."""
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
