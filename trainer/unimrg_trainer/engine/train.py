"""The train stage on one rank: builds everything that the job needs and runs the loop."""

from __future__ import annotations

import logging
import time

import torch.distributed as dist

from unimrg_api.environment import PodEnvironment
from unimrg_api.job import UniMRGJob
from unimrg_trainer.checkpoint.agreement import TorchAgreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.identity import check_resume
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.engine.canonical_state import import_state
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.loop import LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.engine.setup import set_up
from unimrg_trainer.engine.step_plan import RowReader, StepPlanner, pinned
from unimrg_trainer.engine.stopping import CollectiveStopFlag, StopFlag
from unimrg_trainer.engine.strategy import DataParallel
from unimrg_trainer.local_folders import mlflow_run

logger = logging.getLogger(__name__)


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Train to the job's stop step, from the newest checkpoint if there is one.

    Raises UserError (its exit code) for a user's mistake, Interrupted (85) after a stop request.
    """
    setup = set_up(env, job)
    training = job.spec.training
    dataset = setup.open_data("train")
    checkpointer = Checkpointer(
        setup.run_store,
        Origin(env.uid, int(env.attempt), DataParallel.name, job.training_digest(dataset.digest), dataset.digest),
        keep_last=job.spec.checkpoint.keep_last,
        agreement=TorchAgreement(setup.gloo_group),
    )
    commit, state = load_checkpoint(checkpointer, job) or (None, None)
    # the strategy broadcasts rank 0's weights, so only rank 0 reads them
    published = setup.initial_weights if state is None and setup.rank == 0 else None
    module = build_initial(setup.family, training.seed, published, setup.parameter_dtype)
    frozen = setup.family.frozen(setup.objectives)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    module.to(setup.device)
    if setup.rank == 0:
        for name in sorted(frozen):
            logger.info("frozen, because no objective of this job uses it: %s", name)

    recompute_activations(module, job.spec.resolved_recompute())
    strategy = DataParallel(module, training.precision, setup.device)
    optimizer = build_optimizer(module, training.optimizer, setup.family.decays)
    first_step = 0
    if commit is not None and state is not None:
        import_state(module, optimizer, state)
        first_step = state.step
        logger.info("resumed from step %d of attempt %s", first_step, commit.attempt)
    del state  # frees the host copy of weights and moments

    stop_step = training.resolved_stop_step()
    reporter = Reporter(setup, stop_step, first_step, len(frozen), sum(p.numel() for p in module.parameters()))
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

        reporter.record_image(write_contact_sheet(setup, planner), "inputs and targets", 0)

    def save(state: TrainingState, reason: str) -> None:
        started = time.monotonic()
        segments = reporter.close_segments()
        run_id = mlflow_run(env.run_dir).get("run_id")  # once the launcher has found or created it
        commit = checkpointer.save(state, reason, mlflow_run_id=run_id, spool_segments=segments)
        reporter.record_checkpoint(commit.step, time.monotonic() - started)

    loop = TrainingLoop(
        module=module,
        optimizer=optimizer,
        strategy=strategy,
        schedule=WarmupCosine(
            float(training.optimizer.learning_rate), training.schedule.warmup_steps, training.schedule.total_steps
        ),
        collector=MetricsCollector(setup.objective_weights),
        plan_step=lambda step: pinned(planner.plan_step(step, setup.rank, setup.world_size), setup.device),
        prepare=lambda batch: setup.family.prepare(batch, setup.device, setup.parameter_dtype),
        stop=CollectiveStopFlag(stop, setup.gloo_group),
        save=save,
        report=reporter.report,
        heartbeat=reporter.heartbeat,
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


def load_checkpoint(checkpointer: Checkpointer, job: UniMRGJob) -> tuple[Commit, TrainingState] | None:
    """Load the newest checkpoint that verifies, as spec.checkpoint.resume allows.

    Raises UserError for `Never` on a prefix with checkpoints (64), and for `Required` on one without (66).
    """
    loaded = checkpointer.load_newest()
    check_resume(job.spec.checkpoint.resume, job.spec.checkpoint.uri, loaded[0].step if loaded is not None else 0)
    return loaded
