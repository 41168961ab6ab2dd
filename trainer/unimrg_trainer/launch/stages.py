"""The implementation of each stage, one function each, shared by pods and `unimrg run`.

Every stage ends with an exit code and a termination record, also after an unexpected exception.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, Outcome, StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer import job_stores
from unimrg_trainer.checkpoint.identity import attempt_numbers, check_resume
from unimrg_trainer.checkpoint.lease import Lease, renewed
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.data.publication import published
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.launch import inputs, outcomes, reports, worker_group
from unimrg_trainer.launch.classification import classify
from unimrg_trainer.launch.exit_records import ExitResult, result_from_error
from unimrg_trainer.launch.logs import Echo, rank_log, tail
from unimrg_trainer.launch.preflight import check_node
from unimrg_trainer.launch.preparing import prepare_share, uses_gpus
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.watchdog import Watchdog
from unimrg_trainer.local_folders import claim_folder, log_folder
from unimrg_trainer.preparation.prepare import Share
from unimrg_trainer.storage.base import ObjectStore, StorageError
from unimrg_trainer.tracking.mlflow_run import Checkpoint
from unimrg_trainer.tracking.settings import TerminalStatus
from unimrg_trainer.tracking.spool import Spool, save_spool
from unimrg_trainer.tracking.system_metrics import watch_system
from unimrg_trainer.tracking.uploader import Uploader, UploadReport, finish

logger = logging.getLogger(__name__)

RANK_MODULE = "unimrg_trainer.launch.rank"
UPLOAD_SECONDS, UPLOAD_SECONDS_AFTER_STOP = 10.0, 3.0
"""Limit for uploads to MLflow at the end of a stage, normally and after a stop request. `finish` uploads the rest."""
FINISH_SECONDS, FINISH_SECONDS_AFTER_STOP = 60.0, 15.0
"""Limit for uploads in `finish`."""
SAVE_SECONDS, SAVE_SECONDS_AFTER_STOP = 60.0, 6.0
"""Limit for saving outcome, metrics and logs to the run's store. After a stop request this and the limit for uploads
fit into worker_group.GRACE_MARGIN_SECONDS."""
_MLFLOW_STATUS: dict[Outcome, TerminalStatus] = {"Succeeded": "FINISHED", "Failed": "FAILED"}


@dataclass(frozen=True)
class StageContext:
    """Inputs of a stage function."""

    env: PodEnvironment
    job: UniMRGJob
    run_store: ObjectStore
    owner: str
    """The uid of the job's object, by which the attempts of one job know each other."""
    stop: StopRequest
    echo: bool
    rank_module: str
    leases: list[Lease] = field(default_factory=list)
    """What is released once everything is saved."""


@dataclass(frozen=True)
class StageExecution:
    """How a stage ended."""

    record: TerminationRecord
    env: PodEnvironment | None = None
    """The environment with the training's uid and the number of the attempt; None if there is no attempt yet."""

    @property
    def code(self) -> ExitCode:
        return ExitCode(self.record.exit_code)


def execute(
    stage: StageName, env: PodEnvironment, stop: StopRequest, *, echo: bool = False, rank_module: str = RANK_MODULE
) -> StageExecution:
    """Run one stage from the main thread, write its termination record and return it.

    The caller has installed `stop`. `echo` repeats the first rank's log on standard output; `rank_module` is what each
    rank runs.
    """
    context = attempt_env = None
    try:
        reports.report_stage(env.run_dir, stage)
        job = inputs.job_of(env)
        run_store = job_stores.run_store(job, env)
        if STAGES[stage].distributed:
            attempt_env = inputs.claim_run(env, job, run_store)
        elif not STAGES[stage].fails_job:
            attempt_env = inputs.find_run(env, job, run_store)
        if attempt_env is not None and claim_folder(env.run_dir, attempt_env.uid):
            reports.report_stage(env.run_dir, stage)
        context = StageContext(attempt_env or env, job, run_store, env.uid, stop, echo, rank_module)
        result = _STAGES[stage](context)
    except KeyboardInterrupt:
        result = ExitResult(
            ExitCode.INTERRUPTED, "Interrupted", f"interrupted during {stage}; what is finished is kept"
        )
        if stop.twice:
            result = ExitResult(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", f"interrupted twice during {stage}")
    except Exception as error:
        result = result_from_error(error)
        expected = isinstance(error, UserError | Interrupted)  # anything else is a bug, logged with its traceback
        text = str(error) if isinstance(error, UserError) else result.message  # the result's is short
        logger.error("%s ended (%d): %s", stage, result.code, text, exc_info=None if expected else error)
    return StageExecution(_conclude(stage, env, result, context), attempt_env)


def _check(context: StageContext) -> ExitResult:
    """Fast checks on one CPU: batch split, packages, stores, data set, identity, resume policy, weights, tracking."""
    env, job = context.env, context.job
    if job.spec.trains:
        batch = job.spec.training.batch
        cohorts_of_rank(BatchShape(batch.rows_per_objective, batch.cohort_rows), 0, 0, env.nodes * env.processes)
    with context.stop.interruptible():
        inputs.check_custom_names(job, env)
        with job_stores.prefix_user_errors("spec.checkpoint.uri"):
            inputs.probe(context.run_store)
        data = _check_data(context)
        with job_stores.prefix_user_errors("spec.checkpoint.uri"):
            inputs.check_identity(job, env, context.run_store, data)
            if job.spec.trains:
                step = outcomes.checkpoint_step(context.run_store)
                check_resume(job.spec.checkpoint.resume, job.spec.checkpoint.uri, step)
        inputs.warn_if_tracking_fails(job, env)
    return ExitResult(ExitCode.OK, "Completed")


def _check_data(context: StageContext) -> str:
    """Return the digest of the data.

    Raises UserError unless it is published and has what is trained on, or else evaluated with, or its sources are
    readable and its store is writable.
    """
    job, env = context.job, context.env
    stores = job_stores.data_stores(job, env)
    if not stores:
        return job_stores.data_digest(job, env)
    with job_stores.prefix_user_errors("spec.data.shards[0]"):
        wanted = job_stores.wanted_digest(job, env)
        if wanted is not None and published(stores[0], wanted) is None:
            inputs.probe(stores[0])
            return job_stores.data_digest(job, env, prepared=False)
    return job_stores.check_data(job, env)


def _prepare(context: StageContext) -> ExitResult:
    """Turn the job's sources into shards, unless the job names existing shards or they are published already."""
    data = context.job.spec.data
    if data.sources is None:
        return ExitResult(ExitCode.OK, "Completed", "the job names existing shards; there is nothing to prepare")
    if data.preparation.processes > 1:
        # none of them talks to another: what is done is in the store
        env = replace(context.env, processes=data.preparation.processes, attempt=context.env.attempt or "1")
        return _supervised(replace(context, env=env), "prepare", [], gpus=uses_gpus(context.job))
    share = Share(context.env.node_rank, context.env.nodes)
    with context.stop.interruptible():
        prepared = prepare_share(context.job, context.env, share)
    where = f"{job_stores.data_stores(context.job, context.env)[0].uri}/{prepared.prefix}"
    return ExitResult(ExitCode.OK, "Completed", f"found in {where}" if prepared.reused else f"written to {where}")


def _run_ranks(context: StageContext, stage: StageName) -> ExitResult:
    """Run a stage on all ranks of this node; on the first node with the lease and uploads to MLflow."""
    new_holders: list[str] = []
    if context.env.node_rank != 0:
        return _supervised(context, stage, new_holders, gpus=_has_gpus(context))
    with renewed(context.run_store, context.owner, int(context.env.attempt), new_holders.append) as lease:
        context.leases.append(lease)
        result = _supervised(context, stage, new_holders, gpus=_has_gpus(context))
    if new_holders:
        context.stop.request("taken over")  # nothing follows
        message = f"{new_holders[0]} has taken this training over; this attempt was ended and saved nothing more"
        return ExitResult(ExitCode.INTERRUPTED, "LeaseLost", message)
    return result


def _has_gpus(context: StageContext) -> bool:
    return context.job.spec.trainer.gpus_per_node > 0


def _supervised(context: StageContext, stage: StageName, new_holders: list[str], *, gpus: bool) -> ExitResult:
    """Run a stage on all ranks of this node; they are killed once there is a taker of the lease."""
    env, stop = context.env, context.stop
    check_node(env, gpus=gpus)
    worker_group.wait_for_master(env, stop)
    if stop.requested:
        raise Interrupted(f"stopped before {stage} began")
    logs = log_folder(env.run_dir, env.attempt, stage)
    echo = Echo(rank_log(logs, env.node_rank * env.processes))
    gpu_override = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    group = worker_group.start(context.rank_module, [stage], env, logs, overrides=gpu_override)
    first_node = env.node_rank == 0
    tracked: AbstractContextManager[list[UploadReport]] = nullcontext([])
    if STAGES[stage].distributed:
        tracked = _uploading(context)
    with echo if context.echo else nullcontext(), tracked as uploads:
        end = worker_group.supervise(
            group,
            stop=stop,
            grace=env.grace,
            watchdog=Watchdog(env.stall_timeout, time.monotonic()),
            heartbeat=lambda: reports.heartbeat(env.run_dir),
            terminates_on_stall=first_node,
            lease_lost=lambda: bool(new_holders),
        )
    result = classify(end)
    unsent = next((one for one in uploads if one.remaining), None)
    if unsent is None or result.code is not ExitCode.OK or not STAGES[stage].scores:
        return result
    why = f"{unsent.problem}. " if unsent.problem else ""
    where = "the results are in results/ of the run, the records in its spool, and `finish` sends them"
    return replace(result, message=f"{why}{unsent.remaining} records did not reach MLflow yet: {where}")


def _finish(context: StageContext) -> ExitResult:
    limit = FINISH_SECONDS_AFTER_STOP if context.stop.requested else FINISH_SECONDS
    return finish_run(context.env, context.job, context.run_store, context.stop, limit)


def finish_run(
    env: PodEnvironment, job: UniMRGJob, run_store: ObjectStore, stop: StopRequest, limit: float
) -> ExitResult:
    """Upload the rest of the tracking spool and set the MLflow run's final status, within `limit` seconds.

    A failure here fails no job. `env` has the training's uid and attempt.
    """
    if not attempt_numbers(run_store):
        return ExitResult(ExitCode.OK, "Completed", f"no training under {run_store.uri}: no MLflow run to close")
    outcome = outcomes.run_outcome(run_store, job, env.attempt)
    status = _MLFLOW_STATUS.get(outcome, "KILLED")
    outcomes.store_run_outcome(run_store, env.attempt, outcome, tracked=False)
    with stop.interruptible(even_if_requested=True):
        settings = inputs.tracking_settings(job, env)
        report = finish(env.run_dir, run_store, settings, status, limit, partial(_kept_checkpoints, run_store))
    if report.remaining or not report.status_set:
        count = report.remaining if report.run_id else f"up to {report.remaining}"  # it was never asked what it has
        left = f"{count} records did not reach MLflow within {limit:.0f} s; `unimrg track sync` sends them"
        message = f"{report.problem}. {left}" if report.problem else left
        return ExitResult(report.exit_code or ExitCode.UNAVAILABLE, "TrackingIncomplete", message)
    outcomes.store_run_outcome(run_store, env.attempt, outcome, tracked=True)
    sent = f"{report.sent} records were still to be sent; " if report.sent else ""
    return ExitResult(ExitCode.OK, "Completed", f"{sent}the MLflow run was closed as {status}")


_STAGES: dict[StageName, Callable[[StageContext], ExitResult]] = {
    "check": _check,
    "prepare": _prepare,
    "train": partial(_run_ranks, stage="train"),
    "evaluate": partial(_run_ranks, stage="evaluate"),
    "finish": _finish,
}


@contextmanager
def _uploading(context: StageContext) -> Iterator[list[UploadReport]]:
    """Record the node's load, and upload the spool while the ranks write it; the list gets how far that came."""
    first_node = context.env.node_rank == 0  # the others have their system metrics only
    uploader = Uploader(
        context.env.run_dir,
        inputs.tracking_settings(context.job, context.env),
        checkpoints=partial(_kept_checkpoints, context.run_store) if first_node else None,
    )
    uploader.start()
    spool = Spool(context.env.run_dir / "spool", int(context.env.attempt))
    system = watch_system(spool, context.env.node_rank if context.env.nodes > 1 else None)
    uploads = list[UploadReport]()
    try:
        yield uploads
    finally:
        system.set()
        limit = UPLOAD_SECONDS_AFTER_STOP if context.stop.requested else UPLOAD_SECONDS
        uploads.append(uploader.stop(0.0 if context.stop.twice else limit))


def _kept_checkpoints(run_store: ObjectStore) -> list[Checkpoint]:
    """The checkpoints in the store, for the LoggedModels of the run. Raises StorageError."""
    return [
        Checkpoint(commit.step, f"{run_store.uri}/{commit.folder}", commit.manifest_sha256)
        for commit in list_commits(run_store)
    ]


def _conclude(
    stage: StageName, env: PodEnvironment, result: ExitResult, context: StageContext | None
) -> TerminationRecord:
    """Write the termination record, then save outcome, metrics and logs to the run's store.

    The record comes first: a store that hangs could use up the rest of the grace period.
    """
    record = reports.termination_record(result, env)
    reports.write_termination(env, record)
    if context is None or not STAGES[stage].distributed:
        return record
    records = [record]  # the last one counts; the thread may append one with scores
    saving = threading.Thread(target=_save_results, args=(stage, result, context, records), name="save", daemon=True)
    saving.start()
    started = time.monotonic()
    while saving.is_alive():
        limit = SAVE_SECONDS_AFTER_STOP if context.stop.requested else SAVE_SECONDS  # a stop may be requested meanwhile
        if time.monotonic() - started >= limit:
            logger.warning("saving outcome, metrics and logs to %s timed out after %s", context.run_store.uri, stage)
            break
        saving.join(0.1)
    return records[-1]


def _save_results(
    stage: StageName, result: ExitResult, context: StageContext, records: list[TerminationRecord]
) -> None:
    """Save outcome, metrics and logs to the run's store; appends a record with the benchmark scores to `records`."""
    env, run_store = context.env, context.run_store
    try:
        found = outcomes.summary(run_store) if result.code is ExitCode.OK and STAGES[stage].scores else None
        if found is not None:
            records.append(reports.termination_record(result, env, found.headline()))
            reports.write_termination(env, records[-1])
            if env.node_rank == 0:
                outcomes.record_evaluation(run_store, context.job, found)
        if env.node_rank == 0:
            outcomes.store_termination_record(run_store, env.attempt, stage, records[-1])
        save_spool(env.run_dir, run_store)
        for path in sorted(log_folder(env.run_dir, env.attempt, stage).glob("*.log")):
            run_store.put(f"logs/attempt-{env.attempt}/{stage}/{path.name}", tail(path))
        for lease in context.leases:
            lease.release()
    except StorageError as error:
        logger.warning("outcome, metrics and logs of %s are not all saved: %s", stage, error)
    except Exception:
        logger.exception("outcome, metrics and logs of %s are not all saved", stage)
