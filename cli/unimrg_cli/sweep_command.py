"""The command `unimrg sweep`: several jobs that differ in few fields, on this machine or on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unimrg_cli.options import ContextOption, KubeconfigOption, NamespaceOption

if TYPE_CHECKING:
    from unimrg_cli.sweep_results import SweepResult

sweep_app = typer.Typer(rich_markup_mode=None)


@sweep_app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep, a YAML or JSON file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the jobs; start nothing.")] = False,
    results: Annotated[bool, typer.Option("--results", help="Show the table as it is now; start nothing.")] = False,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, help="Jobs at a time. (default: 1 here, on a cluster all of them)"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", "-p", min=1, max=64, help="As of `unimrg run`, for each job here.")
    ] = None,
    on_cluster: Annotated[
        bool, typer.Option("--cluster", help="Create the jobs on a cluster; -n, --context, --kubeconfig say so too.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="On a cluster: wait until all jobs have ended.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: Annotated[
        Literal["table", "json", "csv", "markdown"], typer.Option("--output", "-o", help="Form of the table.")
    ] = "table",
) -> None:
    """Run jobs that differ in methods, objectives, seeds or other fields.

    Jobs that are complete are skipped, so the same command goes on where it was. It ends with one table: losses and
    scores of each job, and means over seeds.
    """
    from unimrg_cli.extras import require
    from unimrg_cli.sweep_file import load_sweep, missing, refuse_on_a_cluster

    if dry_run and results:
        raise typer.BadParameter("a dry run shows the jobs and not their results", param_hint="--results")
    planned = load_sweep(file)
    on_cluster = on_cluster or any((namespace, context, kubeconfig))
    if on_cluster and not results:
        refuse_on_a_cluster(planned, file)
    if dry_run:
        import json

        from unimrg_cli.yaml_text import to_yaml

        values = [job.value for job in planned.jobs]
        typer.echo(json.dumps(values, indent=2) if output == "json" else to_yaml(values), nl=output == "json")
        return
    code = 0
    if on_cluster:
        from unimrg_cli.cluster_commands import connected

        cluster = connected(namespace or planned.jobs[0].job.metadata.namespace, context, kubeconfig)
        from unimrg_cli import sweep_cluster

        if not results:
            code = sweep_cluster.submit_all(cluster, planned, file, parallel, wait=wait)
        found = sweep_cluster.look(cluster, planned)
    else:
        from unimrg_cli import sweep_local

        if not results:
            require("trainer")
            absent = missing(planned)
            if absent is not None:
                raise absent
            code = sweep_local.run_all(planned, parallel or 1, processes, quiet=output != "table")
        found = sweep_local.look(planned)
    _print(found, output)
    raise typer.Exit(code)


def _print(found: "SweepResult", output: Literal["table", "json", "csv", "markdown"]) -> None:
    from unimrg_cli.sweep_results import as_rows, as_text

    if output != "table":
        typer.echo(as_text(found, output))
        return
    from unimrg_cli.tables import print_sweep

    print_sweep(*as_rows(found))
