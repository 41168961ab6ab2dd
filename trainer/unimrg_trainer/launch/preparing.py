"""The work of the prepare stage: in the launcher itself, or shared by processes of this pod and of others."""

from __future__ import annotations

import importlib
import os
import time

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_api.output_places import REMEDY, outputs_in_sources
from unimrg_api.stages import STAGES, PodSize
from unimrg_trainer import job_stores
from unimrg_trainer.launch import inputs, reports
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.preparation.prepare import Prepared, Share, prepare
from unimrg_trainer.sections import SectionFile

REPORT_SECONDS = 0.5
"""Minimum interval between progress reports."""


def main(env: PodEnvironment, job: UniMRGJob, stop: StopRequest) -> None:
    """Do the share of one of several processes (`launch/rank.py`)."""
    if uses_gpus(job):
        # encoders and producers run on the current device
        importlib.import_module("torch").cuda.set_device(int(os.environ["LOCAL_RANK"]) % job.spec.trainer.gpus_per_node)
    with stop.interruptible():
        prepare_share(job, env, Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))


def uses_gpus(job: UniMRGJob) -> bool:
    """Whether something is computed on GPUs."""
    return STAGES["prepare"].pod_size(job) is PodSize.GPU


def prepare_share(job: UniMRGJob, env: PodEnvironment, share: Share) -> Prepared:
    """Make some of the job's data set. The first worker reports the progress of all, publishes, and checks that the
    data has what is trained on, and that the run's prefix is not another training's. Raises as `prepare` does."""
    report = _Report(env) if share.worker == 0 else _Alive(env, share.worker)
    sources, spec = job.spec.data.sources, job.spec
    assert sources is not None
    for place, _, message in outputs_in_sources(spec.model_dump(by_alias=True), env.spec_base):
        raise UserError(f"spec.{place[0]}.{place[1]}: {message}", remedy=REMEDY)
    prepared = prepare(
        sources,
        env.spec_base,
        job_stores.data_stores(job, env)[0],
        report,
        job_stores.image_encoder(job, env),
        job_stores.map_producers(job, env),
        storage=spec.storage,
        cache=env.cache,
        max_bad_fraction=spec.data.preparation.max_bad_fraction,
        share=share,
    )
    if share.worker == 0:
        inputs.check_identity(job, env, job_stores.run_store(job, env), job_stores.check_data(job, env))
    return prepared


class _Report:
    """Writes the progress of all workers, and how long the rest will take at the rate of this attempt so far."""

    def __init__(self, env: PodEnvironment) -> None:
        self._run_dir = env.run_dir
        self._started: tuple[float, int] | None = None
        self._reported = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        started, before = self._started = self._started or (now, done)
        if now - self._reported >= REPORT_SECONDS or done == total:
            self._reported = now
            left = (total - done) * (now - started) / (done - before) if done > before else None
            reports.report_stage(self._run_dir, "prepare", step=done, total_steps=total, eta_seconds=left)


class _Alive:
    """Says that a worker beside the first goes on, for the watchdog."""

    def __init__(self, env: PodEnvironment, worker: int) -> None:
        self._section = SectionFile(env.run_dir, worker)

    def __call__(self, done: int, total: int) -> None:
        self._section.tick()
