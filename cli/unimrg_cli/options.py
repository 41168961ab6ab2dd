"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Output = Literal["table", "json"]
JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job, a YAML or JSON file.")]
Target = Annotated[str, typer.Argument(metavar="FILE_OR_RUN_URI", help="The job's file, or the run's folder or URI.")]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name on the cluster.")]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace. (default: the context's)")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Kubeconfig. (default: $KUBECONFIG, else ~/.kube/config)")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table to read, or JSON for programs.")]
