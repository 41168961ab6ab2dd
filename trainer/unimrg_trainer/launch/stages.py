"""The stages of a job, one function each: what a pod runs, and what `unimrg run` runs one after the other
(seams.md §2).

A stage ends with an exit code and a termination record, whatever happens in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer import job_stores
from unimrg_trainer.data.prepare import prepare
from unimrg_trainer.data.publication import find_publication, published
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.launch import inputs, outcomes, reports, torchrun
from unimrg_trainer.launch.exit_records import describe
from unimrg_trainer.launch.logs import Echo, log_folder, rank_log, tail
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.verdict import Verdict, judge
from unimrg_trainer.launch.watchdog import Watchdog
from unimrg_trainer.local_folders import take_for
from unimrg_trainer.storage.base import ObjectStore, StorageError
from unimrg_trainer.tracking import Shipper, finish, keep_spool

logger = logging.getLogger(__name__)

RANK_MODULE = "unimrg_trainer.launch.rank"
SHIP_SECONDS = (10.0, 3.0)
"""How long the end of a stage waits for the tracker, and after a request to stop; `finish` ships what is left."""
FINISH_SECONDS = (60.0, 15.0)
"""How long `finish` waits, and after a request to stop."""
KEEP_SECONDS = (60.0, 8.0)
"""How long the end of a stage waits until its outcome, points and logs are beside the checkpoints, and after a request
to stop. Together with SHIP_SECONDS the latter is less than what the grace period has for it (torchrun.GRACE_MARGIN)."""
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    env: PodEnvironment
    job: UniMRGJob
    run: ObjectStore
    stop: StopRequest
    echo: bool
    rank_module: str


@dataclass(frozen=True)
class StageEnd:
    """How a stage ended; `env` has the uid and the attempt that it claimed."""

    env: PodEnvironment
    record: TerminationRecord

    @property
    def code(self) -> ExitCode:
        return ExitCode(self.record.exit_code)


def run_stage(stage: StageName, env: PodEnvironment) -> ExitCode:
    """Run one stage of the job in `env.spec`, heeding signals; return its exit code."""
    with StopRequest().installed() as stop:
        return execute(stage, env, stop).code


def execute(
    stage: StageName,
    env: PodEnvironment,
    stop: StopRequest,
    *,
    echo: bool = False,
    rank_module: str = RANK_MODULE,
) -> StageEnd:
    """Run one stage from the main thread, write its termination record and return both.

    The caller has installed `stop`. `echo` repeats the first rank's log on standard output; `rank_module` is
    what torchrun starts.
    """
    context = None
    try:
        reports.announce(env.run_dir, stage)
        job = inputs.job_of(env)
        run = job_stores.run_store(job, env)
        if stage in ("train", "evaluate"):
            env = inputs.claim(env, job, run)
        elif stage == "finish":
            env = inputs.identified(env, job, run)
        if env.uid and stage in ("train", "evaluate", "finish") and take_for(env.run_dir, env.uid):
            reports.announce(env.run_dir, stage)
        context = Context(env, job, run, stop, echo, rank_module)
        verdict = _STAGES[stage](context)
    except KeyboardInterrupt:
        verdict = Verdict(ExitCode.INTERRUPTED, "Interrupted", f"interrupted during {stage}; the last commit stands")
        if stop.twice:
            verdict = Verdict(ExitCode.INTERRUPTED_TWICE, "InterruptedTwice", f"interrupted twice during {stage}")
    except Exception as error:
        verdict = _failure(stage, error)
    return StageEnd(env, _conclude(stage, env, verdict, context))


def _failure(stage: StageName, error: Exception) -> Verdict:
    """What an exception in the launcher itself means; a bug is logged with its traceback."""
    found = describe(error)
    expected = isinstance(error, UserError | Interrupted)
    level = logging.INFO if isinstance(error, Interrupted) else logging.ERROR
    logger.log(level, "%s ended (%d): %s", stage, found.code, found.message, exc_info=None if expected else error)
    return Verdict(ExitCode(found.code), found.reason, found.message)


def _check(context: Context) -> Verdict:
    """Seconds on one CPU: everything that can be known to fail later fails here."""
    env, job = context.env, context.job
    training = job.spec.training
    shape = BatchShape(training.batch.rows_per_objective, training.batch.cohort_rows)
    cohorts_of_rank(shape, 0, 0, env.nodes * env.processes)
    with context.stop.raising():
        with inputs.named("spec.checkpoint.uri"):
            inputs.probe(context.run)
        with inputs.named("spec.data.shards[0]"):
            data = _check_data(context)
        with inputs.named("spec.checkpoint.uri"):
            inputs.check_identity(job, env, context.run, data)
        with inputs.named("spec.model.init"):
            inputs.check_weights(job, env)
        inputs.warn_if_tracker_is_down(job)
    return Verdict(ExitCode.OK, "Completed")


def _check_data(context: Context) -> str:
    """Return the digest of the data set, which is there or can be prepared from its source."""
    job, env = context.job, context.env
    wanted = job_stores.wanted_digest(job, env)
    store = job_stores.data_store(job, env)
    if wanted is not None and published(store, wanted) is None:
        inputs.probe(store)
        return wanted
    return find_publication(store, wanted).digest


def _prepare(context: Context) -> Verdict:
    """Turn the job's source into shards, unless they are there or exist by themselves."""
    sources = context.job.spec.data.sources
    if sources is None:
        return Verdict(ExitCode.OK, "Completed", "the shards exist; there is nothing to prepare")
    reported = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_SECONDS or done == total:
            reported = time.monotonic()
            reports.announce(context.env.run_dir, "prepare", step=done, total_steps=total)

    store = job_stores.data_store(context.job, context.env)
    with context.stop.raising():
        prepared = prepare(sources, context.env.spec_base, store, report)
        inputs.check_identity(context.job, context.env, context.run, prepared.digest)
    where = f"{store.uri}/{prepared.prefix}"
    return Verdict(ExitCode.OK, "Completed", f"found in {where}" if prepared.reused else f"written to {where}")


def _gang(context: Context, stage: StageName) -> Verdict:
    """Run a stage on all ranks of this node, with the watchdog and the tracker's shipper beside them."""
    env, stop = context.env, context.stop
    torchrun.wait_for_master(env, stop)
    if stop.requested:
        raise Interrupted(f"stopped before {stage} began")
    echo = Echo(rank_log(env, env.node_rank * env.processes))
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if context.job.spec.trainer.gpus_per_node == 0 else {}
    gang = torchrun.start(context.rank_module, [stage], env, overrides=hidden)
    first_node = env.node_rank == 0
    with _shipping(context) if first_node else nullcontext():
        outcome = torchrun.supervise(
            gang,
            stop=stop,
            grace=env.grace,
            watchdog=Watchdog(env.stall_timeout, time.monotonic()) if first_node else None,
            heartbeat=lambda: reports.heartbeat(env.run_dir),
            on_poll=echo if context.echo else lambda: None,
            stall_timeout=env.stall_timeout,
        )
    return judge(outcome)


def _train(context: Context) -> Verdict:
    """Train on all processes, to the stop step or to a request to stop."""
    return _gang(context, "train")


def _evaluate(context: Context) -> Verdict:
    """Measure the newest commit on held-out data."""
    return _gang(context, "evaluate")


def _finish(context: Context) -> Verdict:
    """Ship what the tracking spool still holds and close the run as what it was; never the cause of a
    failure.
    """
    env, run, stop = context.env, context.run, context.stop
    status = outcomes.status_of(run, env.attempt, context.job)
    limit = FINISH_SECONDS[stop.requested]
    with stop.raising(even_if_requested=True):
        report = finish(env.run_dir, run, inputs.tracking_settings(context.job, env), env.uid, status, timeout=limit)
    if report.remaining or not report.status_set:
        return Verdict(
            ExitCode.UNAVAILABLE,
            "TrackingIncomplete",
            f"{report.remaining} records did not reach MLflow within {limit:.0f} s; the spool keeps them",
        )
    outcomes.note_finished(run, env.attempt)
    return Verdict(ExitCode.OK, "Completed", status)


_STAGES = {"check": _check, "prepare": _prepare, "train": _train, "evaluate": _evaluate, "finish": _finish}


@contextmanager
def _shipping(context: Context) -> Iterator[None]:
    """Ship the spool while the ranks write it."""
    shipper = Shipper(context.env.run_dir, inputs.tracking_settings(context.job, context.env))
    shipper.start()
    try:
        yield
    finally:
        shipper.stop(0.0 if context.stop.twice else SHIP_SECONDS[context.stop.requested])


def _keep_logs(context: Context, stage: StageName) -> None:
    """Copy the end of each log to logs/attempt-N/ beside the checkpoints; a store that refuses is only
    logged.

    Those of an evaluation go to a folder of their own: on a cluster it has another pod, whose logs lack the training.
    """
    folder = f"logs/attempt-{context.env.attempt}/" + ("" if stage == "train" else f"{stage}/")
    for path in sorted(log_folder(context.env).glob("*.log")):
        try:
            context.run.put(folder + path.name, tail(path))
        except StorageError as error:
            logger.warning("%s and the logs after it were not kept: %s", path.name, error)
            return  # an end must not wait once for each of them


def _conclude(stage: StageName, env: PodEnvironment, verdict: Verdict, context: Context | None) -> TerminationRecord:
    """Write the last word to the termination log, and then what is kept beside the checkpoints.

    In this order, for a store that hangs may use up what is left of the grace period.
    """
    record = reports.termination_record(verdict, env.run_dir)
    reports.write_termination(env, record)
    if context is None or stage not in ("train", "evaluate"):
        return record
    kept = [record]
    keeping = threading.Thread(
        target=_keep, args=(stage, env, verdict, context, kept), name="keep-what-lasts", daemon=True
    )
    keeping.start()
    started = time.monotonic()
    while keeping.is_alive():
        if time.monotonic() - started > KEEP_SECONDS[context.stop.requested]:
            logger.warning("%s does not take what is kept of %s in time", context.run.uri, stage)
            break
        keeping.join(0.1)
    return kept[-1]


def _keep(
    stage: StageName, env: PodEnvironment, verdict: Verdict, context: Context, kept: list[TerminationRecord]
) -> None:
    """Keep outcome, points and logs beside the checkpoints; the record that has the scores as well goes to `kept`."""
    run, first_node = context.run, env.node_rank == 0
    try:
        if stage == "evaluate" and verdict.code is ExitCode.OK:
            found = outcomes.summary(run)
            kept.append(reports.termination_record(verdict, env.run_dir, found.headline() if found is not None else {}))
            reports.write_termination(env, kept[-1])
        if first_node:
            outcomes.note(run, env.attempt, stage, kept[-1])
            if stage == "evaluate" and verdict.code is ExitCode.OK:
                outcomes.note_evaluation(run, context.job)
            keep_spool(env.run_dir, run)
        _keep_logs(context, stage)
    except Exception:
        logger.exception("not all of %s was kept", stage)
