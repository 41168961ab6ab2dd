"""Where the objects of a job lie: the store of its run, the store of its data, and which data set is meant.

The launcher and the engine both ask this page, so that they cannot mean different places.
"""

from __future__ import annotations

from unimrg_api.environment import PodEnvironment
from unimrg_api.job import UniMRGJob, resolve_uri
from unimrg_trainer.data.photographs import find_photographs
from unimrg_trainer.data.prepare import source_digest
from unimrg_trainer.data.publication import find_publication
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import ObjectStore


def run_store(job: UniMRGJob, env: PodEnvironment) -> ObjectStore:
    """The prefix of the run: checkpoints, outcomes, logs, results."""
    return open_store(resolve_uri(job.spec.checkpoint.uri, env.spec_base))


def data_store(job: UniMRGJob, env: PodEnvironment) -> ObjectStore:
    """Where the data set is, or where it is prepared."""
    return open_store(resolve_uri(job.spec.data.shards[0], env.spec_base))


def wanted_digest(job: UniMRGJob, env: PodEnvironment) -> str | None:
    """The digest of the data set that the job's source describes; None without a source.

    Raises JobError (66) for photographs that are not there.
    """
    source = job.spec.data.source
    return None if source is None else source_digest(source, find_photographs(source.photographs, env.spec_base))


def data_digest(job: UniMRGJob, env: PodEnvironment) -> str:
    """The digest of the data set that the job trains on. Raises UserError (66) if it is not there, or not
    yet.
    """
    return find_publication(data_store(job, env), wanted_digest(job, env)).digest
