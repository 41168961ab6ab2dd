"""What a tracked run says about itself, for whoever finds it in MLflow: what was trained, from what, and how again."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import logging
import subprocess
from pathlib import Path

import unimrg_trainer
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.load import process_spec
from unimrg_api.redaction import redact_values
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.local_folders import JOB_FILE
from unimrg_trainer.tracking.spool import Spool

logger = logging.getLogger(__name__)


def describe_run(setup: Setup, spool: Spool, parameter_count: int, frozen_count: int) -> None:
    """Record description, parameters, tags, the training data and the job's file. For rank 0."""
    job = setup.job
    spool.params(parameters(setup, parameter_count, frozen_count))
    spool.tags(
        {
            "mlflow.note.content": description(setup, parameter_count),
            "mlflow.user": _user(),
            "mlflow.source.type": "JOB",
            "mlflow.source.name": f"UniMRGJob {job.metadata.name}",
            **_commit(),
            "unimrg.job": job.metadata.name,
            "unimrg.version": importlib.metadata.version("unimrg"),
            "unimrg.checkpoints": resolve_uri(job.spec.checkpoint.uri, setup.env.spec_base),
        }
    )
    if job.spec.trains:
        record_dataset(setup, spool, "training")
    file = setup.env.run_dir / JOB_FILE
    try:
        file.write_text(json.dumps(redact_values(json.loads(process_spec(job))), indent=2) + "\n")
    except OSError as error:  # a full disk ends no training
        logger.warning("the job is not tracked, %s cannot be written: %s", file, error)
    else:
        spool.artifact(file, "job")


def record_dataset(setup: Setup, spool: Spool, context: str) -> str:
    """Record the job's data set as one that is read for `context` (`training`, `evaluation`); return its name there."""
    uri = ", ".join(resolve_uri(uri, setup.env.spec_base) for uri in setup.job.spec.data.shards)
    name = _data_name(setup.job) + ("" if context == "training" else " (held out)")
    spool.dataset(name, setup.data_digest, uri, context)
    return name


def description(setup: Setup, parameter_count: int) -> str:
    """Return Markdown: what was trained, from which base, on which data, by which method, and how to do it again."""
    spec, base = setup.job.spec, setup.env.spec_base
    training = spec.training
    objectives = ", ".join(f"{name} × {weight:g}" for name, weight in setup.objective_weights.items())
    places = ", ".join(f"`{resolve_uri(uri, base)}`" for uri in spec.data.shards)
    start = f"`{resolve_uri(spec.model.init, base)}`" if spec.model.init else f"random weights of seed {training.seed}"
    batch = f"{training.batch.rows_per_objective} rows of each objective per step"
    name = f"**{setup.family.name} {setup.family.variant}** ({parameter_count:,} parameters)"
    if spec.trains:
        what = f"""{name}, trained with **{spec.method}**

- objectives: {objectives}
- start: {start}
- data: {_data_name(setup.job)} at {places}, digest `{setup.data_digest}`
- length: {training.resolved_stop_step()} steps, {batch}, seed {training.seed}, {setup.world_size} process(es)
- checkpoints: `{resolve_uri(spec.checkpoint.uri, base)}`"""
    else:
        what = f"""{name}, evaluated as it is

- weights: {start}
- results: `{resolve_uri(spec.checkpoint.uri, base)}`"""
    return f"""{what}

To repeat it, save the artifact `job/{JOB_FILE}`, choose another `spec.checkpoint.uri` in it, and with
unimrg {importlib.metadata.version("unimrg")} run

    unimrg run {JOB_FILE}
"""


def parameters(setup: Setup, parameter_count: int, frozen_count: int) -> dict[str, str]:
    """Return the job's settings as flat, write-once parameters, and what follows from them."""
    # Before they are flat: the text of a list does not show under which names its items stand.
    spec = redact_values(setup.job.spec.model_dump(by_alias=True, mode="json", exclude_none=True))
    flat: dict[str, str] = {}

    def flatten(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                flatten(f"{prefix}.{key}", item)
        else:
            flat[prefix] = value if isinstance(value, str) else json.dumps(value)

    for cluster_only in ("volumes", "serviceAccountName"):
        spec["trainer"].pop(cluster_only, None)
    for part in ("model", "training", "trainer"):
        flatten(part, spec[part])
    flat |= {f"weight.{name.lower()}": str(weight) for name, weight in setup.objective_weights.items()}
    return flat | {
        "method": setup.job.spec.method,
        "data.digest": setup.data_digest,
        "parameters": str(parameter_count),
        "frozen": str(frozen_count),
        "processes": str(setup.world_size),
    }


def _data_name(job: UniMRGJob) -> str:
    sources = [source.key for source in job.spec.data.sources or ()]
    shards = job.spec.data.shards[1 if sources else 0 :]
    return " + ".join([*sources, *(uri.rstrip("/").rpartition("/")[2] for uri in shards)])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


def _commit() -> dict[str, str]:
    """Return the commit of the code, where it runs from a checkout of the repository."""
    root = Path(unimrg_trainer.__path__[0]).parents[1]
    if not (root / ".git").exists():
        return {}
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": found.stdout.strip()}
