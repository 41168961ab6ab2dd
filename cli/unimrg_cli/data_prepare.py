"""Prepares the data of a job on this machine, as its prepare stage does, with a bar on standard error."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_cli.data_view import View
from unimrg_trainer.data.shards import join
from unimrg_trainer.job_stores import data_store, image_encoder
from unimrg_trainer.launch.devices import fit_to_machine
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.preparation.prepare import prepare


class PreparedReport(View):
    """What `unimrg data prepare` made or found."""

    uri: str
    digest: str
    reused: bool
    """Whether it was there already."""


def prepare_here(job: UniMRGJob, file: Path) -> PreparedReport:
    """Write the data set of a job's sources to its store, unless it is there.

    Raises UserError for a job without sources, JobError for inputs that are missing or cannot be read.
    """
    sources = job.spec.data.sources
    if sources is None:
        raise UserError(
            f"{file} names no data.sources, so there is nothing to prepare",
            remedy="add them, or look at the data that it names: `unimrg data inspect`",
        )
    job, _ = fit_to_machine(job, None)
    env = local_environment(job, file, None)
    store = data_store(job, env)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        prepared = prepare(
            sources,
            env.spec_base,
            store,
            lambda done, total: bar.update(task, completed=done, total=total),
            image_encoder(job, env),
        )
    return PreparedReport(uri=join(store.uri, prepared.prefix), digest=prepared.digest, reused=prepared.reused)
