"""Prepares the data of a job on this machine by the prepare stage alone, with its progress on standard error."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_cli.data_view import View
from unimrg_trainer.data.publication import folder_of, published
from unimrg_trainer.data.shards import join
from unimrg_trainer.job_stores import data_store, wanted_digest
from unimrg_trainer.launch.devices import fit_to_machine
from unimrg_trainer.launch.live_view import live_view
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import execute
from unimrg_trainer.local_folders import TERMINATION_FILE, provide_home


class PreparedReport(View):
    """What `unimrg data prepare` made or found."""

    uri: str
    digest: str
    reused: bool
    """Whether it was there already."""


def prepare_here(job: UniMRGJob, file: Path) -> PreparedReport:
    """Write the data set of a job's sources to its store, unless it is there.

    Raises UserError for a job without sources and for whatever ends the stage, with the stage's exit code.
    """
    if job.spec.data.sources is None:
        raise UserError(
            f"{file} names no data.sources, so there is nothing to prepare",
            remedy="add them, or look at the data that it names: `unimrg data inspect`",
        )
    provide_home()
    logging.getLogger("unimrg_trainer").addHandler(logging.NullHandler())  # the error says what the log would
    with TemporaryDirectory(prefix="unimrg-prepare-") as scratch:
        job = _without_run(fit_to_machine(job, None)[0], Path(scratch))
        env = local_environment(job, file, None)
        env = replace(env, run_dir=Path(scratch), termination_log=Path(scratch) / TERMINATION_FILE)
        store, digest = data_store(job, env), wanted_digest(job, env)
        assert digest is not None
        reused = published(store, digest) is not None
        with StopRequest().installed() as stop, live_view(Console(stderr=True), env.run_dir, stop):
            end = execute("prepare", env, stop)
    if end.code is not ExitCode.OK:
        raise UserError(end.record.message, exit_code=end.code)
    return PreparedReport(uri=join(store.uri, folder_of(digest)), digest=digest, reused=reused)


def _without_run(job: UniMRGJob, scratch: Path) -> UniMRGJob:
    """Return the job with its run in a folder of its own: what is prepared need not fit the training that is there."""
    checkpoint = job.spec.checkpoint.model_copy(update={"uri": scratch.as_uri()})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"checkpoint": checkpoint})})
