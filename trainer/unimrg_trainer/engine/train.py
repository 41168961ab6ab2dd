"""The train stage on one rank: builds everything that the job needs and runs the loop."""

from __future__ import annotations

import datetime
import logging

import torch.distributed as dist

from unimrg_api.environment import PodEnvironment
from unimrg_api.job import UniMRGJob
from unimrg_trainer.checkpoint.agreement import TorchAgreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.identity import check_resume
from unimrg_trainer.checkpoint.retention import Policy
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.loop import LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.saving import BackgroundSaver
from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.engine.setup import set_up
from unimrg_trainer.engine.step_plan import RowReader, Step, StepPlanner, pinned
from unimrg_trainer.engine.stopping import CollectiveStopFlag, StopFlag
from unimrg_trainer.engine.strategies.choose import build_strategy
from unimrg_trainer.engine.strategies.selfcheck import require_working

logger = logging.getLogger(__name__)

SAVE_TIMEOUT = datetime.timedelta(minutes=30)
"""How much longer than the fastest rank a rank may take for its part of a checkpoint."""


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Train to the job's stop step, from the newest checkpoint if there is one.

    Raises UserError (its exit code) for a user's mistake, Interrupted (85) after a stop request.
    """
    setup = set_up(env, job)
    training = job.spec.training
    strategy_name = job.spec.resolved_strategy(setup.world_size)
    if setup.rank == 0:
        logger.info("strategy %s over %d processes", strategy_name, setup.world_size)
    require_working(strategy_name, setup.device)
    dataset = setup.open_data("train")
    checkpointer = Checkpointer(
        setup.run_store,
        Origin(env.uid, int(env.attempt), strategy_name, job.training_digest(dataset.digest), dataset.digest),
        retention=Policy(job.spec.checkpoint.keep_last, job.spec.checkpoint.keep_every),
        agreement=TorchAgreement(dist.new_group(backend="gloo", timeout=SAVE_TIMEOUT)),
    )
    newest = newest_allowed(checkpointer, job)
    # the strategy broadcasts rank 0's weights, so only rank 0 reads them
    published = setup.initial_weights if newest is None and setup.rank == 0 else None
    module = build_initial(setup.family, training.seed, published, setup.parameter_dtype)
    frozen = setup.family.frozen(setup.objectives)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    module.to(setup.device)
    if setup.rank == 0:
        for name in sorted(frozen):
            logger.info("frozen, because no objective of this job uses it: %s", name)

    recompute_activations(module, job.spec.resolved_recompute())
    # before the strategy divides it
    parameter_count = sum(parameter.numel() for parameter in module.parameters())
    strategy = build_strategy(
        strategy_name,
        module,
        lambda module: build_optimizer(module, training.optimizer, setup.family.decays),
        training.precision,
        setup.device,
    )
    first_step = 0
    if newest is not None:
        commit = checkpointer.load_newest(strategy.import_state)
        assert commit is not None, "without a commit that verifies it raises"
        first_step = commit.step
        logger.info("resumed from step %d of attempt %s", first_step, commit.attempt)

    stop_step = training.resolved_stop_step()
    reporter = Reporter(setup, stop_step, first_step, len(frozen), parameter_count)
    planner = StepPlanner(
        family=setup.family,
        objectives=setup.objectives,
        objective_weights=setup.objective_weights,
        reader=RowReader(
            dataset,
            training.seed,
            setup.same_images,
            setup.family.reading if job.spec.data.image_encoding == "Prepared" else None,
        ),
        shape=BatchShape(training.batch.rows_per_objective, training.batch.cohort_rows),
        micro_batch_rows=training.batch.micro_batch_rows,
        seed=training.seed,
        composition=setup.composition,
    )

    if first_step == 0 and setup.rank == 0:
        # on one rank only: it imports matplotlib, which takes a second
        from unimrg_trainer.engine.contact_sheet import write_contact_sheet

        reporter.record_artifact(write_contact_sheet(setup, planner))

    def plan_step(number: int) -> Step:
        step = planner.plan_step(number, setup.rank, setup.world_size)
        return pinned(setup.operations.counted(step) if setup.operations else step, setup.device)

    saver = BackgroundSaver(checkpointer, reporter, stop, env.run_dir)
    loop = TrainingLoop(
        strategy=strategy,
        schedule=WarmupCosine(
            float(training.optimizer.learning_rate), training.schedule.warmup_steps, training.schedule.total_steps
        ),
        collector=MetricsCollector(setup.objective_weights),
        plan_step=plan_step,
        prepare=lambda batch: setup.family.prepare(batch, setup.device, setup.parameter_dtype),
        stop=CollectiveStopFlag(saver, setup.gloo_group),
        save=saver.save,
        settle=saver.settle,
        report=reporter.report,
        heartbeat=saver.heartbeat,
        settings=LoopSettings(
            stop_step=stop_step,
            save_every=job.spec.checkpoint.every_steps,
            clip_norm=float(training.optimizer.clip_norm),
            seed=training.seed,
        ),
    )
    loop.run(first_step)
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
