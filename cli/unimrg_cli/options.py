"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Output = Literal["table", "json"]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job, a YAML or JSON file.")]
Target = Annotated[str, typer.Argument(metavar="FILE_OR_RUN_URI", help="The job's file, or the run's folder or URI.")]


def _job_names(incomplete: str) -> list[str]:
    """Return the names of jobs of the kubeconfig's namespace, for the completion of a shell; none if that fails."""
    try:
        from unimrg_cli.cluster_client import connect

        return [job["metadata"]["name"] for job in connect(None, None, None).jobs() if _begins(job, incomplete)]
    except Exception:  # the command itself reports whatever is wrong
        return []


def _begins(job: dict[str, Any], text: str) -> bool:
    return str(job["metadata"]["name"]).startswith(text)


JobName = Annotated[
    str, typer.Argument(metavar="NAME", help="The job's name on the cluster.", autocompletion=_job_names)
]
RunOrJob = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The job's file, the run's folder or URI, or the name of a job.",
        autocompletion=_job_names,
    ),
]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the context's)")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Kubeconfig. (default: $KUBECONFIG, else ~/.kube/config)")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table to read, or JSON for programs.")]
