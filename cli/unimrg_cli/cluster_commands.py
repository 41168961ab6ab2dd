"""The commands about jobs on a cluster; `status` and `logs` know runs of this machine too.

Each imports what it needs when it runs.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimrg_api.stages import StageName
from unimrg_cli.options import (
    ContextOption,
    JobFile,
    JobName,
    KubeconfigOption,
    NamespaceOption,
    OutputOption,
    RunOrJob,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from unimrg_cli.cluster_client import Cluster

cluster_app = typer.Typer(rich_markup_mode=None)


def connected(namespace: str | None, context: str | None, kubeconfig: Path | None) -> "Cluster":
    """Return the cluster that the options name. Raises UserError where the packages for it are missing."""
    from unimrg_cli.extras import require

    require("operator")
    from unimrg_cli.cluster_client import connect

    return connect(namespace, context, kubeconfig)


def print_json(shown: "BaseModel") -> None:
    """Print a model as JSON, without what it does not have."""
    typer.echo(shown.model_dump_json(by_alias=True, exclude_none=True, indent=2))


@cluster_app.command()
def submit(
    file: JobFile,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the file's or the context's)")
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate on the server; create nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit with the job's code.")] = False,
    output: OutputOption = "table",
) -> None:
    """Create a job on a cluster.

    Its file is checked first, also for what only a cluster refuses. JSON is that of `unimrg status`.
    """
    from unimrg_cli.check import check_cluster_job, namespace_of, placeholder_notes

    if dry_run and wait:
        raise typer.BadParameter("a dry run creates nothing to wait for", param_hint="--wait")
    job, document = check_cluster_job(file)
    for note in placeholder_notes(document):
        typer.echo(f"note: {note}", err=True)
    wanted = namespace_of(job, namespace)
    cluster = connected(wanted, context, kubeconfig)
    from unimrg_cli.submit import create, next_commands
    from unimrg_cli.waiting import watch

    created = create(cluster, document, file, dry_run=dry_run)
    where = f"UniMRGJob {created.name} in namespace {created.namespace}"
    where += " (that of the kubeconfig's context; -n names another)" if wanted is None else ""
    code = 0
    if output == "table" and dry_run:
        typer.echo(f"the cluster would take the {where}; nothing was created")
    elif output == "table":
        typer.echo(f"created the {where}. Next:")
        for command in next_commands(created, context, kubeconfig):
            typer.echo(f"  {command}")
    if wait:
        created, code = watch(cluster, created)
    if output == "json":
        print_json(created)
    elif wait:
        from unimrg_cli.tables import print_status

        print_status(created)
    raise typer.Exit(code)


@cluster_app.command()
def status(
    target: RunOrJob,
    output: OutputOption = "table",
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show where a run stands: progress, losses, results.

    TARGET is the name of a job on a cluster if no file or folder has that name, or if -n, --context or --kubeconfig
    is given.
    """
    from unimrg_api.errors import UserError
    from unimrg_cli.run_view import describe_run, names_cluster_job

    explicit = any((namespace, context, kubeconfig))
    if names_cluster_job(target, explicit=explicit):
        from unimrg_cli.cluster_view import read_job

        try:
            description: BaseModel = read_job(connected(namespace, context, kubeconfig).job(target))
        except UserError as error:
            raise error if explicit else _not_found(target, error) from None
    else:
        description = describe_run(target)
    if output == "json":
        print_json(description)
        return
    from unimrg_cli.tables import print_status

    print_status(description)


@cluster_app.command()
def logs(
    target: RunOrJob,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until what writes has ended.")] = False,
    rank: Annotated[
        str | None, typer.Option("--rank", help="Rank of the training process, or `all`. (default: 0)")
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", help="Of a job on a cluster: rank of the node, or `all`. (default: 0)")
    ] = None,
    stage: Annotated[
        StageName | None, typer.Option("--stage", help="Stage. (default: the one that failed, else the newest)")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Attempt of the stage. (default: the newest)")
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Lines at the end. (default: all)")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show the logs of a job on a cluster, or of a run.

    Of a job those of its pods; once they are gone, the last 1 MiB of each rank, which launchers keep beside the
    checkpoints. TARGET is understood as by `unimrg status`.
    """
    from unimrg_api.errors import UserError
    from unimrg_cli.run_view import names_cluster_job

    if rank is not None and node is not None:
        raise typer.BadParameter("a rank is on one node; leave --node out", param_hint="--node")
    ranks, nodes = _number(rank, "--rank"), _number(node, "--node")
    explicit = any((namespace, context, kubeconfig))
    if not names_cluster_job(target, explicit=explicit):
        from unimrg_cli.kept_logs import KeptSelection, show_run_logs

        if node is not None:
            raise typer.BadParameter("a run has ranks; choose one with --rank", param_hint="--node")
        wanted = 0 if rank is None else ranks
        show_run_logs(target, KeptSelection(stage, attempt, wanted, tail), follow=follow)
        return
    try:
        cluster = connected(namespace, context, kubeconfig)
        if not explicit:
            cluster.job(target)
    except UserError as error:
        raise error if explicit else _not_found(target, error) from None
    from unimrg_cli.pod_logs import Selection, show_logs

    on = None if "all" in (rank, node) else nodes or 0
    show_logs(cluster, target, Selection(stage, attempt, on, ranks, tail, follow))


def _number(text: str | None, option: str) -> int | None:
    """Return the rank that an option names, None for all of them or if it is not given."""
    if text in (None, "all"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is neither a rank from 0 nor `all`", param_hint=option)
    return int(text)


def _not_found(target: str, error: Exception) -> Exception:
    """Return the error about a name that is neither here nor on a cluster."""
    from unimrg_api.errors import UserError

    assert isinstance(error, UserError)
    message = f"no file or folder here is called {target}; looking for a job of that name: {error.message}"
    return UserError(message, remedy=error.remedy, exit_code=error.exit_code)


@cluster_app.command()
def wait(
    name: JobName,
    condition: Annotated[
        str | None,
        typer.Option("--for", help="Condition to wait for; a wrong name lists them. (default: Complete or Failed)"),
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds. (default: no limit)")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = "table",
) -> None:
    """Wait for the end of a job on a cluster.

    The exit code is the job's, 69 after the timeout; each change is written to standard error.
    """
    from typing import get_args

    from unimrg_api.status import ConditionType

    known = get_args(ConditionType)
    if condition is not None and condition not in known:
        raise typer.BadParameter(f"{condition!r} is none of {', '.join(known)}", param_hint="--for")
    cluster = connected(namespace, context, kubeconfig)
    from unimrg_cli.cluster_view import read_job
    from unimrg_cli.waiting import watch

    job, code = watch(cluster, read_job(cluster.job(name)), condition, timeout)
    if output == "json":
        print_json(job)
    elif condition is None:
        from unimrg_cli.tables import print_status

        print_status(job)
    raise typer.Exit(code)


@cluster_app.command()
def suspend(
    name: JobName,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = "table",
) -> None:
    """Stop a job on a cluster after a last commit."""
    _suspend(name, namespace, context, kubeconfig, output, suspend=True)


@cluster_app.command()
def resume(
    name: JobName,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = "table",
) -> None:
    """Let a suspended job go on from its last commit."""
    _suspend(name, namespace, context, kubeconfig, output, suspend=False)


def _suspend(
    name: str, namespace: str | None, context: str | None, kubeconfig: Path | None, output: str, *, suspend: bool
) -> None:
    cluster = connected(namespace, context, kubeconfig)
    from unimrg_cli.lifecycle import set_suspended

    job, text = set_suspended(cluster, name, suspend)
    if output == "json":
        print_json(job)
    else:
        typer.echo(text)


@cluster_app.command()
def cancel(
    name: JobName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = "table",
) -> None:
    """Delete a job on a cluster; its checkpoints stay."""
    cluster = connected(namespace, context, kubeconfig)
    from unimrg_api.errors import UserError
    from unimrg_cli.cluster_view import headline, read_job
    from unimrg_cli.lifecycle import cancel, what_stays

    job = read_job(cluster.job(name))
    if not yes:
        typer.echo(f"{job.name} in namespace {job.namespace}: {headline(job)}", err=True)
        if not sys.stdin.isatty():
            raise UserError(
                f"{name} was not deleted: nobody can be asked here", remedy="give --yes where that is what you want"
            )
        typer.confirm("Delete it? Its pods end after a last commit.", abort=True, err=True)
    cancel(cluster, job)
    if output == "json":
        print_json(job)
    else:
        typer.echo(f"deleted {job.name} in namespace {job.namespace}. {what_stays(job)}")
