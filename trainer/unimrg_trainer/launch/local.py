"""`unimrg run`: all stages of a job on this machine, with the code, files and exit codes of a pod."""

from __future__ import annotations

import logging
import shlex
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.load import process_spec
from unimrg_api.stages import STAGES, Outcome, StageName, is_skipped, outcome_of, result_of, wanted_stages
from unimrg_api.termination import TerminationRecord
from unimrg_trainer import job_stores
from unimrg_trainer.engine.rows import BatchShape, cohorts_of_rank
from unimrg_trainer.evaluation.summary import render
from unimrg_trainer.launch import inputs, outcomes
from unimrg_trainer.launch.devices import fit_to_machine
from unimrg_trainer.launch.live_view import live_view
from unimrg_trainer.launch.lock import run_lock
from unimrg_trainer.launch.logs import FORMAT, rank_log, tail
from unimrg_trainer.launch.progress_server import serve_progress
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import RANK_MODULE, execute
from unimrg_trainer.local_folders import (
    TERMINATION_FILE,
    cache_folder,
    log_folder,
    mlflow_run,
    provide_home,
    run_folder,
)
from unimrg_trainer.storage.base import ObjectStore, StorageError
from unimrg_trainer.tracking.settings import sqlite_path

logger = logging.getLogger(__name__)

LOG_LINES = 15
"""Lines of the failed rank's log that are printed."""

_EXIT_CODES_WITHOUT_LOG = (
    ExitCode.CONFIGURATION,
    ExitCode.DATA_CORRUPT,
    ExitCode.INPUT_MISSING,
    ExitCode.CREDENTIALS,
    ExitCode.PREFLIGHT,
    ExitCode.NON_FINITE_LOSS,
    ExitCode.STRATEGY_CHECK,
    ExitCode.NO_VALID_CHECKPOINT,
)
"""Exit codes whose message is enough: no log is printed."""

_CLUSTER_ONLY_FIELDS = {
    "metadata.namespace": "there are none on this machine",
    "spec.suspend": "whoever starts `unimrg run` wants it to run",
    "spec.image": "the installed unimrg runs",
    "spec.backend": "no pods are made",
    "spec.queue": "nothing waits for quota",
    "spec.data.preparation.pods": "this machine is one node",
    "spec.trainer.nodes": "this machine is one node",
    "spec.trainer.rdma": "this machine is one node",
    "spec.trainer.volumes": "file:// URIs are folders of this machine",
    "spec.trainer.serviceAccountName": "the current user's permissions apply",
    "spec.storage.credentials": "the keys of this environment are used",
    "spec.tracking.mlflow.credentials": "the keys of this environment are used",
    **dict.fromkeys(
        ("spec.runPolicy.maxRestarts", "spec.runPolicy.maxInfraRestarts", "spec.runPolicy.backoffSeconds"),
        "`unimrg run` never restarts; the same command resumes",
    ),
    "spec.runPolicy.activeDeadlineSeconds": "`unimrg run` has no deadline; Ctrl-C ends it, and a checkpoint is saved",
    "spec.runPolicy.startTimeoutSeconds": "there are no pods on this machine",
    "spec.runPolicy.ttlSecondsAfterFinished": "there are no pods on this machine",
    "spec.runPolicy.keepFailedPodSeconds": "there are no pods on this machine",
}
"""Fields that `unimrg run` does not use, and why."""


def run_job(
    job: UniMRGJob,
    job_file: Path,
    processes: int | None = None,
    *,
    console: Console | None = None,
    stop: StopRequest | None = None,
    rank_module: str = RANK_MODULE,
) -> int:
    """Run a job here, from the main thread, and return the exit code; a run that was stopped is resumed.

    `job_file` is the file that the job came from: relative paths count from its folder. `processes` is the number of
    training processes (default: spec.trainer.processesPerNode for a job on CPUs, else 1). `stop` is a request whose
    handlers are installed already. Raises UserError before anything starts if another `unimrg run` of this machine uses
    the same run, or if it has too few GPUs.
    """
    console = console or Console()
    if processes is not None:
        batch = job.spec.training.batch
        with job_stores.prefix_user_errors(f"--processes {processes}"):
            cohorts_of_rank(BatchShape(batch.rows_per_objective, batch.cohort_rows), 0, 0, processes)
    job, fallback = fit_to_machine(job, processes)
    env = local_environment(job, job_file, processes)
    provide_home()
    run_store = job_stores.run_store(job, env)
    with _locked(env, run_store), _logging(env.run_dir):
        for line in [*ignored_fields(job, processes), *([fallback] if fallback else [])]:
            console.print(line, markup=False, highlight=False, style="dim")
        session = _Session(job, env, run_store, console, rank_module)
        with nullcontext(stop) if stop is not None else StopRequest().installed() as request:
            port = ports(str(env.run_dir), "local")[1]
            with serve_progress(env.run_dir, env.pod_ip, port), live_view(console, env.run_dir, request):
                code = session.run(request)
        session.report()
    return int(code)


@contextmanager
def _locked(env: PodEnvironment, run_store: ObjectStore) -> Iterator[None]:
    """Hold the run's lock. Where that lies in the run's own folder and cannot be written, the field is named."""
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(env.run_dir, display_uri(run_store.uri)))
        except StorageError as error:
            field = "spec.checkpoint.uri: " if run_store.uri.startswith("file://") else ""
            raise StorageError(f"{field}{error.message}", remedy=error.remedy, exit_code=error.exit_code) from None
        yield


def local_environment(job: UniMRGJob, job_file: Path, processes: int | None) -> PodEnvironment:
    """The environment that a pod of this job would get, with this machine's paths, a new uid and attempt 1."""
    base = job_file.resolve().parent
    run_dir = run_folder(resolve_uri(job.spec.checkpoint.uri, base), job.spec.storage)
    trainer = job.spec.trainer
    default = trainer.processes_per_node if trainer.gpus_per_node == 0 else 1
    return PodEnvironment(
        job=job.metadata.name,
        uid=uuid.uuid4().hex,
        attempt="1",
        spec=process_spec(job),
        spec_base=base,
        run_dir=run_dir,
        cache=cache_folder(),
        termination_log=run_dir / TERMINATION_FILE,
        processes=processes if processes is not None else default,
        stall_timeout=job.spec.run_policy.stall_timeout_seconds,
        grace=job.spec.checkpoint.grace_seconds,
    )


def ignored_fields(job: UniMRGJob, processes: int | None) -> list[str]:
    """The fields of the job that only a cluster uses and that are not left at their defaults, one sentence each."""
    lines = []
    for path, reason in _CLUSTER_ONLY_FIELDS.items():
        value: Any = job.model_dump(by_alias=True, exclude_defaults=True)
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            lines.append(f"{path} is ignored: {reason}")
    if job.spec.trainer.gpus_per_node > 0 and processes is None:
        lines.append("spec.trainer.gpusPerNode is ignored: one process trains; --processes N for more")
    return lines


def display_uri(uri: str) -> str:
    """A store's URI for messages: a local folder by its path."""
    return str(path_of(uri)) if uri.startswith("file://") else uri


@dataclass(frozen=True)
class _Failure:
    """A stage that did not complete, with the end of its log."""

    stage: StageName
    record: TerminationRecord
    log_lines: list[str]


@dataclass
class _Session:
    """One `unimrg run`: the stages in order, and the report at the end."""

    job: UniMRGJob
    env: PodEnvironment
    run_store: ObjectStore
    console: Console
    rank_module: str
    attempt_env: PodEnvironment | None = None
    """The environment with uid and number of the attempt, once there is one."""
    already_complete: bool = False
    failed: _Failure | None = None
    """The first stage that did not complete, of those that decide the result."""

    def run(self, stop: StopRequest) -> ExitCode:
        """Run the remaining stages up to the first failure; `finish` always runs once training has started."""
        first, *others = wanted_stages(self.job)
        ended = {first: self._run_stage(first, stop)}
        self.already_complete = self.failed is None and self._is_already_complete()
        for name in others:
            skip = self.already_complete or is_skipped(name, self.job, ended, self._checkpoint_step())
            # a second stop request between two stages fails the next, so that the run is not taken for complete
            skip = skip or (stop.twice and self.failed is not None)
            if not STAGES[name].fails_job:
                # this command's MLflow run has to be closed, or one left open by a killed command
                left_open = self.already_complete and not outcomes.is_mlflow_run_closed(self.run_store)
                skip = self.attempt_env is None and not left_open
            ended[name] = "Skipped" if skip else self._run_stage(name, stop)
        if result_of(self.job, ended) == "Succeeded":
            return ExitCode.OK
        assert self.failed is not None, ended
        return ExitCode(self.failed.record.exit_code)

    def report(self) -> None:
        """Print how it ended: results, or the cause and where to look."""
        console = self.console
        if self.failed is None:
            if self.already_complete:
                done = f"the checkpoint of step {self._checkpoint_step()} already exists"
                console.print(f"Nothing to do: {done if self.job.spec.trains else 'these weights are evaluated'}.")
            self._print_results()
            return
        stage, record = self.failed.stage, self.failed.record
        if outcome_of(record.exit_code) == "Interrupted":
            step = self._checkpoint_step()
            checkpoint = f"the last checkpoint is of step {step}" if step else "there is no checkpoint yet"
            if not self.job.spec.trains:
                checkpoint = "finished blocks of answers are kept"
            self._print(f"Interrupted during {stage}: {checkpoint}. Run the same command again to resume.")
            return
        console.print(f"[bold red]{stage} failed[/] ({record.exit_code}, {record.reason})")
        self._print(record.message)
        if self.failed.log_lines:
            self._print("\n".join(self.failed.log_lines), style="dim")
            self._print(f"Logs: {self._logs(stage)}")
        elif "\n" in record.message:
            self._print(f"Log: {launcher_log(self.env.run_dir)}")

    def _run_stage(self, stage: StageName, stop: StopRequest) -> Outcome:
        end = execute(stage, self.env, stop, rank_module=self.rank_module)
        self.attempt_env = end.env or self.attempt_env
        if end.code is not ExitCode.OK and not STAGES[stage].fails_job:
            self._print(f"Tracking is incomplete: {end.record.message}")
        elif end.code is not ExitCode.OK and self.failed is None:
            self.failed = _Failure(stage, end.record, self._log_lines(stage, end.record))
        return outcome_of(end.code)

    def _log_lines(self, stage: StageName, record: TerminationRecord) -> list[str]:
        """The end of the failed rank's log."""
        if not STAGES[stage].distributed or self.attempt_env is None or record.exit_code in _EXIT_CODES_WITHOUT_LOG:
            return []
        lines = tail(rank_log(self._logs(stage), record.rank or 0)).decode(errors="replace").splitlines()
        return lines[-LOG_LINES:]

    def _logs(self, stage: StageName) -> Path:
        return log_folder(self.env.run_dir, self.attempt_env.attempt if self.attempt_env is not None else "", stage)

    def _checkpoint_step(self) -> int:
        return outcomes.checkpoint_step(self.run_store)

    def _is_already_complete(self) -> bool:
        """Whether nothing is left to compute: then data that was deleted since need not be prepared again."""
        try:
            digest = job_stores.data_digest(self.job, self.env, prepared=False)
            inputs.check_identity(self.job, self.env, self.run_store, digest)
        except UserError as error:
            logger.info("completeness cannot be decided before the data is prepared: %s", error)
            return False  # prepare fails with it too, and reports it
        return outcomes.is_complete(self.run_store, self.job)

    def _print_results(self) -> None:
        summary = outcomes.summary(self.run_store)
        if summary is not None:
            self.console.print(render(summary))
        self._print(f"Run: {display_uri(self.run_store.uri)}")
        tracker, url = inputs.mlflow_tracking_uri(self.job, self.env), mlflow_run(self.env.run_dir).get("url")
        if sqlite_path(tracker) is not None:
            self._print(f"View in MLflow: mlflow ui --backend-store-uri {shlex.quote(tracker)}")
        elif url:
            self._print(f"MLflow: {url}")

    def _print(self, text: str, style: str | None = None) -> None:
        """Print text as it is: no markup, no wrapping that would break a path."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def launcher_log(run_dir: Path) -> Path:
    """Where this command writes what it logs itself."""
    return run_dir / "logs" / "launcher.log"


@contextmanager
def _logging(run_dir: Path) -> Iterator[None]:
    """Send the launcher's own log to RUN_DIR/logs/launcher.log; the terminal belongs to the live view."""
    path = launcher_log(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    trainer_logger = logging.getLogger("unimrg_trainer")
    level, propagate = trainer_logger.level, trainer_logger.propagate
    trainer_logger.addHandler(handler)
    trainer_logger.setLevel(logging.INFO)
    trainer_logger.propagate = False
    try:
        yield
    finally:
        trainer_logger.removeHandler(handler)
        trainer_logger.setLevel(level)
        trainer_logger.propagate = propagate
        handler.close()
