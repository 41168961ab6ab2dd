"""The train stage on one rank: builds everything that the job needs and runs the loop."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_trainer.checkpoint.agreement import TorchAgreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import damaged_beyond
from unimrg_trainer.checkpoint.identity import check_resume
from unimrg_trainer.checkpoint.retention import Policy
from unimrg_trainer.checkpoint.state import StateReader
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.data.local_cache import LocalCache
from unimrg_trainer.data.mixture import Data
from unimrg_trainer.data.read_ahead import ReadAhead
from unimrg_trainer.data.shards import read_extent
from unimrg_trainer.engine.diagnostics import StepProfiler, compile_blocks, use_deterministic_kernels
from unimrg_trainer.engine.early_stop import EarlyStop
from unimrg_trainer.engine.guard import NumericGuard
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.loop import LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.parts import Part, parts_of, parts_table, rate_scales
from unimrg_trainer.engine.preflight import check_device, check_ring
from unimrg_trainer.engine.rank_times import RankTimes
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.saving import BackgroundSaver
from unimrg_trainer.engine.schedule import Schedule
from unimrg_trainer.engine.setup import Setup, has_compiler, set_up, waiting
from unimrg_trainer.engine.step_plan import Step, StepPlanner, pinned
from unimrg_trainer.engine.stopping import CollectiveStopFlag, StopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.engine.strategies.choose import build_strategy
from unimrg_trainer.engine.strategies.selfcheck import require_working
from unimrg_trainer.engine.substitutions import Substitutions
from unimrg_trainer.local_folders import log_folder
from unimrg_trainer.sections import Section, SectionFile

logger = logging.getLogger(__name__)

SAVE_TIMEOUT = datetime.timedelta(minutes=30)
"""How much longer than the fastest rank a rank may take for its part of a checkpoint."""
MOST_DECODERS = 8
"""Threads of a rank that decode: no more than its share of the processors, and no fewer than two."""


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Train to the job's stop step, from the newest checkpoint if there is one.

    Raises UserError (its exit code) for a user's mistake, Interrupted (85) after a stop request.
    """
    sections = SectionFile(env.run_dir, int(os.environ["RANK"]))
    diagnostics = job.spec.trainer.diagnostics
    if diagnostics.deterministic == "Always":
        use_deterministic_kernels()
    setup = set_up(env, job, waiting(sections, stop))
    check_device(setup.device)
    check_ring(setup.device)
    training = job.spec.training
    strategy_name = job.spec.resolved_strategy(setup.world_size)
    if setup.rank == 0:
        logger.info("strategy %s over %d processes", strategy_name, setup.world_size)
    require_working(strategy_name, setup.device)
    dataset = setup.open_data("train")
    checkpointer = Checkpointer(
        setup.run_store,
        Origin(env.uid, int(env.attempt), strategy_name, job.training_digest(setup.data_digest), setup.data_digest),
        retention=Policy(job.spec.checkpoint.keep_last, job.spec.checkpoint.keep_every),
        agreement=TorchAgreement(dist.new_group(backend="gloo", timeout=SAVE_TIMEOUT)),
        tick=sections.tick,
    )
    newest = newest_allowed(checkpointer, job)
    module, parts, compiled = _build_module(setup, resuming=newest is not None)
    # before the strategy divides it
    parameter_count = sum(parameter.numel() for parameter in module.parameters())
    strategy = build_strategy(
        strategy_name,
        module,
        lambda module: build_optimizer(module, training.optimizer, setup.family.decays, rate_scales(parts).__getitem__),
        training.precision,
        setup.device,
    )
    guard = NumericGuard(training.guard, setup.device)
    planner = _open_planner(setup, dataset)
    substitutions = Substitutions(
        float(job.spec.data.reading.max_substituted_fraction),
        training.batch.rows_per_objective * len(planner.sources),
        sum(len(dataset.images if source == "images" else dataset.questions) for source in planner.sources),
    )
    first_step = 0 if newest is None else _resume(checkpointer, strategy, guard, substitutions)

    frozen_count = sum(len(part.frozen) for part in parts)
    reporter = Reporter(setup, training.resolved_stop_step(), first_step, frozen_count, parameter_count)
    if setup.rank == 0 and first_step and (damaged := damaged_beyond(setup.run_store, first_step)):
        reporter.notify(
            f"the checkpoint of step {', '.join(map(str, damaged))} is damaged, and training goes on from that of step "
            f"{first_step}; QUARANTINED objects beside it say what is wrong"
        )
    if compiled:
        reporter.first_step_compiles(compiled)
    if first_step == 0 and setup.rank == 0:
        # on one rank only: it imports matplotlib, which takes a second
        from unimrg_trainer.engine.contact_sheet import write_contact_sheet

        reporter.record_image(write_contact_sheet(setup, planner), "inputs and targets", 0)

    saver = BackgroundSaver(checkpointer, reporter, stop, env.run_dir)

    def enter(section: Section, finished_steps: int) -> None:
        sections.enter(section, finished_steps)
        saver.heartbeat(finished_steps)

    stop_flag = CollectiveStopFlag(saver, setup.gloo_group)
    early_stop = EarlyStop(setup, strategy, reporter, sections, stop_flag, first_step)
    stop_step = training.resolved_stop_step()
    if early_stop.has_ended:
        logger.info("nothing to train: an early stop ended this training with step %d", first_step)
        stop_step = first_step
    profiler = _open_profiler(setup, sections)
    with _planned_ahead(setup, planner, first_step, stop_step) as plan_step:
        loop = TrainingLoop(
            strategy=strategy,
            schedule=Schedule(
                float(training.optimizer.learning_rate),
                training.schedule.warmup_steps,
                training.schedule.total_steps,
                training.schedule.kind,
            ),
            collector=MetricsCollector(setup.objective_weights),
            guard=guard,
            substitutions=substitutions,
            plan_step=plan_step,
            prepare=lambda batch: setup.family.prepare(batch, setup.device, setup.parameter_dtype),
            stop=stop_flag,
            save=lambda state, reason: saver.save(state, reason, early_stop.score(state.step), early_stop.misses),
            ends_early=early_stop.ends,
            settle=saver.settle,
            report=reporter.report,
            rank_times=None if strategy.forward_waits else RankTimes(module, setup.device, setup.gloo_group),
            enter=enter,
            before_step=profiler.before_step if profiler is not None else lambda finished_steps: None,
            settings=LoopSettings(
                stop_step=stop_step,
                save_every=job.spec.checkpoint.every_steps,
                clip_norm=float(training.optimizer.clip_norm),
                seed=training.seed,
                objective_norms_every=diagnostics.gradient_norms_every,
            ),
        )
        loop.run(first_step)
    if profiler is not None:
        profiler.close()
    reporter.close()
    dist.barrier(setup.gloo_group)
    strategy.close()


def newest_allowed(checkpointer: Checkpointer, job: UniMRGJob) -> Commit | None:
    """Find the checkpoint to go on from, as spec.checkpoint.resume allows.

    Raises UserError for `Never` on a prefix with checkpoints (64), and for `Required` on one without (66).
    """
    newest = checkpointer.find_newest()
    check_resume(job.spec.checkpoint.resume, job.spec.checkpoint.uri, newest.step if newest is not None else 0)
    return newest


def _build_module(setup: Setup, *, resuming: bool) -> tuple[nn.Module, list[Part], int]:
    """Build the family's module on the host, with its initial weights on rank 0, and freeze what the job freezes.

    Return also its parts, and how many blocks the first step compiles.
    """
    training = setup.job.spec.training
    # the strategy broadcasts rank 0's weights, so only rank 0 reads them
    published = setup.initial_weights if not resuming and setup.rank == 0 else None
    module = build_initial(setup.family, training.seed, published, setup.parameter_dtype)
    parts = parts_of(module, setup.family, setup.objectives, training.parts)
    for part in parts:
        part.freeze(module)
    if setup.rank == 0:
        logger.info("what is trained:\n%s", parts_table(parts))
    compiled = 0
    if setup.job.spec.trainer.compile == "Always":
        if not has_compiler():
            raise UserError(
                "spec.trainer.compile: there is no C compiler, which torch.compile needs",
                remedy="use Never, or an image with gcc or another cc",
            )
        compiled = compile_blocks(module)
    recompute_activations(module, setup.job.spec.resolved_recompute())
    return module, parts, compiled


def _resume(checkpointer: Checkpointer, strategy: Strategy, guard: NumericGuard, substitutions: Substitutions) -> int:
    """Import the newest checkpoint that verifies; return its step."""

    def restore(reader: StateReader) -> None:
        strategy.import_state(reader)
        guard.import_state(reader)
        substitutions.import_state(reader)

    commit = checkpointer.load_newest(restore)
    assert commit is not None, "without a commit that verifies it raises"
    logger.info("resumed from step %d of attempt %s", commit.step, commit.attempt)
    return commit.step


def _open_planner(setup: Setup, dataset: Data) -> StepPlanner:
    training = setup.job.spec.training
    prepared = setup.job.spec.data.image_encoding == "Prepared"
    return StepPlanner(
        family=setup.family,
        objectives=setup.objectives,
        objective_weights=setup.objective_weights,
        reader=RowReader(dataset, training.seed, setup.same_images, setup.family.reading if prepared else None),
        shape=BatchShape(training.batch.rows_per_objective, training.batch.cohort_rows),
        micro_batch_rows=training.batch.micro_batch_rows,
        seed=training.seed,
        composition=setup.composition,
    )


@contextmanager
def _planned_ahead(
    setup: Setup, planner: StepPlanner, first_step: int, stop_step: int
) -> Iterator[Callable[[int], Step]]:
    """In the block, what plans a step from samples that are read ahead and decoded in threads."""
    ranks = setup.rank, setup.world_size
    groups = (planner.extents(step, *ranks) for step in range(first_step, stop_step))
    threads = min(MOST_DECODERS, max(2, len(os.sched_getaffinity(0)) // setup.env.processes))
    quota = setup.job.spec.data.reading.cache_gib << 30
    read = LocalCache(setup.env.data_cache, quota).read if quota else read_extent
    with (
        ReadAhead(groups, first_step, read=read) as ahead,
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders,
    ):

        def plan_step(number: int) -> Step:
            with ahead.group(number) as group:
                step = planner.plan_step(number, *ranks, group.read, decoders.map)
            return pinned(setup.operations.counted(step) if setup.operations else step, setup.device)

        yield plan_step


def _open_profiler(setup: Setup, sections: SectionFile) -> StepProfiler | None:
    """Return the profiler that the job asks for, on rank 0."""
    step, env = setup.job.spec.trainer.diagnostics.profile_step, setup.env
    if step is None or setup.rank != 0:
        return None
    return StepProfiler(
        step,
        log_folder(env.run_dir, env.attempt, "train"),
        lambda path: setup.run_store.put(f"logs/attempt-{env.attempt}/train/{path.name}", path.read_bytes()),
        on_export=lambda: sections.enter("save"),
    )
