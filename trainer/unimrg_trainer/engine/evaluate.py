"""The evaluate stage on one rank: benchmarks for a checkpoint or the initial weights, and what training did to losses.

The checkpoint is the newest one, or, where the job has an early stop, the one with the best score; where the job asks
for them, further ones that are kept follow.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch.distributed as dist
from torch import nn

from unimrg_api.digests import canonical_json, sha256_of
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.progress import Progress
from unimrg_trainer.checkpoint.agreement import TorchAgreement, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import import_commit, load_newest, newest_verified
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.data.mixture import Data
from unimrg_trainer.engine.choices import asked_benchmarks
from unimrg_trainer.engine.initial_weights import build_initial, weights_digest
from unimrg_trainer.engine.measuring import (
    SharedWork,
    StoppableProgress,
    TrainedModel,
    cohorts_of,
    held_out_losses,
    held_out_rows,
)
from unimrg_trainer.engine.other_images import with_other_images
from unimrg_trainer.engine.reporting import open_spool
from unimrg_trainer.engine.results import Evaluated, Results, recorded_versions
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.run_description import describe_run
from unimrg_trainer.engine.samples import draw_samples
from unimrg_trainer.engine.setup import Setup, set_up, waiting
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.engine.strategies.base import import_weights
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, Subject
from unimrg_trainer.evaluation.held_out import HeldOutLoss, compare
from unimrg_trainer.evaluation.image_use import compare_images
from unimrg_trainer.evaluation.runner import Asked, Runner
from unimrg_trainer.local_folders import write_progress
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.sections import SectionFile

logger = logging.getLogger(__name__)


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Evaluate as spec.stages.evaluate says; write results/ to the run's store and the scores to the spool.

    Raises UserError (exit code 66) if the job trains and has no checkpoint, Interrupted (85) if a stop was requested.
    """
    benchmarks = asked_benchmarks(job, env)
    sections = SectionFile(env.run_dir, int(os.environ["RANK"]))
    setup = set_up(env, job, waiting(sections, stop))
    newest, notice = (
        _newest(setup) if job.spec.trains else (0, "the initial weights are evaluated: the job does not train")
    )
    sections.enter("evaluate", newest)
    progress = StoppableProgress(stop, partial(_report_progress, setup, newest, notice), sections.tick)
    work = SharedWork(setup.rank, setup.world_size, progress.raise_if_stopped)
    held_out = setup.open_data("heldOut") if setup.data_sets else None
    module = build_initial(setup.family, job.spec.training.seed, setup.initial_weights, setup.parameter_dtype)
    module.to(setup.device).eval()
    evaluation = Evaluation(setup, module, held_out, benchmarks, work, progress)
    if job.spec.trains:
        evaluation.of_checkpoints()
    else:
        evaluation.of_initial_weights()
    dist.barrier(setup.gloo_group)


@dataclass(frozen=True)
class Evaluation:
    """The work of the stage; every rank makes the same calls."""

    setup: Setup
    module: nn.Module
    """Has the initial weights at first."""
    held_out: Data | None
    benchmarks: dict[str, Asked]
    work: SharedWork
    progress: StoppableProgress

    def of_initial_weights(self) -> None:
        """Put the benchmarks to the initial weights, and begin the tracker's run, which no training did."""
        setup = self.setup
        weights = weights_digest(self.module)
        spool = None
        if setup.rank == 0:
            spool = open_spool(setup)
            spool.begin(0)
            parameters = sum(parameter.numel() for parameter in self.module.parameters())
            describe_run(setup, spool, parameters, frozen_count=0)
        results = Results(setup, spool)
        runner = self._runner(results, weights)
        scores = self._scores(runner, results, "results")
        grid = [] if self.held_out is None else draw_samples(setup, self.held_out, runner)
        results.write(Evaluated(None, weights, scores, runner.left_out, grid=grid))
        results.close()

    def of_checkpoints(self) -> None:
        """Measure what training did to held-out losses, and put the benchmarks to the checkpoint, or checkpoints."""
        setup, held_out = self.setup, self.held_out
        assert held_out is not None, "a job that trains has data"
        seed, best = setup.job.spec.training.seed, setup.job.spec.training.early_stop is not None
        agreement, digest = TorchAgreement(setup.gloo_group), setup.job.training_digest(setup.data_digest)
        results = Results(setup, open_spool(setup) if setup.rank == 0 else None)
        before = self._losses(setup, "held-out loss before training, batch")
        commit = load_newest(setup.run_store, agreement, self._restore, training_digest=digest, best=best)
        assert commit is not None, "without a commit that verifies it raises"
        after = self._losses(setup, "held-out loss after training, batch")
        other = self._other_image_losses()
        runner = self._runner(results, commit.manifest_sha256)
        scores = self._scores(runner, results, "results")
        grid = draw_samples(setup, held_out, runner)
        first = setup.rank == 0
        clusters = self._clusters if first else {}
        compared = partial(compare, before, seed=seed, clusters=clusters)
        results.write(
            Evaluated(
                commit,
                commit.manifest_sha256,
                scores,
                runner.left_out,
                losses=compared(after) if first else {},
                image_use=compare_images(after, other, seed=seed, clusters=clusters) if first and other else {},
                grid=grid,
            )
        )
        if setup.job.spec.stages.evaluate.checkpoints == "Kept":
            self._others(commit, digest, results, compared)
        results.close()

    def _others(
        self, chosen: Commit, digest: str, results: Results, compared: Callable[..., dict[str, HeldOutLoss]]
    ) -> None:
        """Evaluate the checkpoints that are kept besides the chosen one, the newest first."""
        setup, agreement = self.setup, TorchAgreement(self.setup.gloo_group)
        kept = on_first_rank(agreement, "listing the checkpoints", lambda: list_commits(setup.run_store))
        for commit in kept:
            if commit.step == chosen.step:
                continue
            if not import_commit(setup.run_store, agreement, commit, self._restore, digest):
                continue  # damaged: it is quarantined now
            after = self._losses(setup, f"held-out loss after step {commit.step}, batch")
            runner = self._runner(results, commit.manifest_sha256, f"step {commit.step}, ")
            scores = self._scores(runner, results, f"results/step-{commit.step}")
            losses = compared(after) if setup.rank == 0 else {}
            results.write(
                Evaluated(commit, commit.manifest_sha256, scores, runner.left_out, losses),
                f"results/step-{commit.step}",
            )

    def _restore(self, reader: CommitReader) -> None:
        reader.on_read = self.progress.go_on
        import_weights(self.module, reader)

    def _runner(self, results: Results, weights: str, name: str = "") -> Runner:
        """The runner for the weights that the module has now; their digest covers how they answer and generate, too.

        What it reports begins with `name`.
        """
        setup, spec = self.setup, self.setup.job.spec
        how = [spec.model.family(), str(setup.parameter_dtype), setup.device.type, recorded_versions()]
        return Runner(
            TrainedModel(setup.family, self.module, self.progress.go_on),
            self.work,
            lambda what, done, total: self.progress(f"{name}{what}", done, total),
            results.blocks(sha256_of([weights, how])),
            canonical_json(spec.model.family()[1].get("sampling", {})),
        )

    def _scores(self, runner: Runner, results: Results, folder: str) -> dict[str, BenchmarkResult]:
        """Return the results of the benchmarks on rank 0, nothing elsewhere."""
        setup = self.setup
        maps = [objective.map for objective in setup.objectives if objective.map is not None]
        subject = Subject(self.held_out, maps, setup.family.prompt_style, setup.device.type)
        fit = {GenerateRequest if objective.map else AnswerRequest for objective in setup.objectives}
        if setup.initial_weights is not None:  # published weights do both, whatever is trained further
            fit = {GenerateRequest, AnswerRequest}
        seed = setup.job.spec.training.seed
        scores = {
            asked.name: runner.measure(asked, subject, fit, seed, results.files(f"{folder}/{asked.name}"))
            for asked in self.benchmarks.values()
        }
        return {name: result for name, result in scores.items() if result is not None}

    @cached_property
    def _rows(self) -> int:
        assert self.held_out is not None
        return held_out_rows(self.setup, self.held_out)

    def _losses(self, setup: Setup, label: str) -> dict[str, np.ndarray]:
        assert self.held_out is not None
        return held_out_losses(setup, self.module, self.held_out, self._rows, self.work, self.progress, label)

    def _other_image_losses(self) -> dict[str, np.ndarray] | None:
        """Losses of the held-out rows when each is shown another image than its own; None if there is no other."""
        training = self.setup.job.spec.training
        measured = len(cohorts_of(self._rows, training.batch.cohort_rows)) * training.batch.cohort_rows
        objectives = with_other_images(self.setup.objectives, self._reader, measured, training.seed)
        if objectives is None:
            return None
        return self._losses(replace(self.setup, objectives=objectives), "held-out loss with other images, batch")

    @property
    def _reader(self) -> RowReader:
        assert self.held_out is not None
        return RowReader(self.held_out, seed=None, same_images=self.setup.same_images)

    @property
    def _clusters(self) -> dict[str, list[str]]:
        """Labels of rows that are not independent: questions about one image, images of a cohort (one mask rate)."""
        reader, cohort_rows = self._reader, self.setup.job.spec.training.batch.cohort_rows
        cohorts = [f"cohort {row // cohort_rows}" for row in range(self._rows)]
        return {
            objective.name: [reader(objective, row).key for row in range(self._rows)]
            if objective.source == "questions"
            else cohorts
            for objective in self.setup.objectives
        }


def _newest(setup: Setup) -> tuple[int, str | None]:
    """Return the step of the newest checkpoint, and a notice if it is not that which is evaluated.

    Raises UserError (66) where there is none.
    """
    early_stop = setup.job.spec.training.early_stop
    newest, chosen = on_first_rank(
        TorchAgreement(setup.gloo_group),
        "looking for a checkpoint",
        lambda: (newest_verified(setup.run_store), newest_verified(setup.run_store, best=early_stop is not None)),
    )
    if newest is None or chosen is None:
        raise UserError(
            f"there is no checkpoint to evaluate at {setup.job.spec.checkpoint.uri}",
            remedy="train first",
            exit_code=ExitCode.INPUT_MISSING,
        )
    if early_stop is None:
        return newest.step, None
    why = "the newest, for none was measured" if chosen.score is None else early_stop.measured(chosen.score)
    notice = f"the checkpoint of step {chosen.step} is evaluated ({why})"
    logger.info("%s", notice)
    return newest.step, notice


def _report_progress(setup: Setup, checkpoint_step: int, notice: str | None, label: str, done: int, total: int) -> None:
    if setup.rank != 0:
        return
    message = f"{label} {min(done + 1, total)} of {total}"
    progress = Progress(
        stage="evaluate", step=done, total_steps=total, message=message, checkpoint_step=checkpoint_step, notice=notice
    )
    write_progress(setup.env.run_dir, progress)
    logger.info("%s", message)
