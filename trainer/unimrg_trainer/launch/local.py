"""`unimrg run`: all stages of a job on this machine, with the code, files and exit codes of a pod."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob, path_of, resolve_uri
from unimrg_api.load import process_spec
from unimrg_api.stages import StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer import job_stores
from unimrg_trainer.checkpoint.identity import claim_identity
from unimrg_trainer.evaluation.summary import render
from unimrg_trainer.launch import inputs, outcomes
from unimrg_trainer.launch.devices import fit_to_machine
from unimrg_trainer.launch.live_view import live_view
from unimrg_trainer.launch.lock import run_lock
from unimrg_trainer.launch.logs import FORMAT, log_folder, rank_log, tail
from unimrg_trainer.launch.progress_server import serve_progress
from unimrg_trainer.launch.reports import mlflow_run
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import RANK_MODULE, execute
from unimrg_trainer.local_folders import cache_folder, run_folder
from unimrg_trainer.storage.base import ObjectStore

logger = logging.getLogger(__name__)

LOG_LINES = 15
"""Lines of the failed rank's log that are shown."""

_USERS = (
    ExitCode.CONFIGURATION,
    ExitCode.DATA_CORRUPT,
    ExitCode.INPUT_MISSING,
    ExitCode.CREDENTIALS,
    ExitCode.NUMERIC_GUARD,
    ExitCode.NOTHING_VERIFIES,
)
"""Ends whose message says it all; a log adds nothing."""


def run_job(
    job: UniMRGJob,
    job_file: Path,
    processes: int | None = None,
    *,
    console: Console | None = None,
    stop: StopRequest | None = None,
    rank_module: str = RANK_MODULE,
) -> int:
    """Run a job here, from the main thread, and return the exit code; a run that was stopped goes on where it
    was.

    `job_file` is the file that the job came from: relative paths count from its folder. `processes` train
    (default: spec.trainer.processesPerNode for a job on CPUs, else 1). `stop` is a request whose signals are
    heeded already. Raises UserError where nothing was begun: another `unimrg run` of this machine works on the same
    run, or it has too few GPUs.
    """
    console = console or Console()
    job, fallback = fit_to_machine(job, processes)
    env = local_environment(job, job_file, processes)
    run = job_stores.run_store(job, env)
    with run_lock(env.run_dir, shown(run.uri)), _logging(env.run_dir):
        for line in [*ignored_fields(job, processes), *([fallback] if fallback else [])]:
            console.print(line, markup=False, highlight=False, style="dim")
        session = _Session(job, env, run, console, rank_module)
        with nullcontext(stop) if stop is not None else StopRequest().installed() as request:
            port = ports(str(env.run_dir), "local")[1]
            with serve_progress(env.run_dir, env.pod_ip, port) as served, live_view(console, served, stop):
                code = session.run(request)
        session.report()
    return int(code)


def local_environment(job: UniMRGJob, job_file: Path, processes: int | None) -> PodEnvironment:
    """What a pod of this job would be told, with this machine's paths."""
    base = job_file.resolve().parent
    run_dir = run_folder(resolve_uri(job.spec.checkpoint.uri, base), job.spec.storage)
    trainer = job.spec.trainer
    default = trainer.processes_per_node if trainer.gpus_per_node == 0 else 1
    return PodEnvironment(
        job=job.metadata.name,
        spec=process_spec(job),
        spec_base=base,
        run_dir=run_dir,
        cache=cache_folder(),
        termination_log=run_dir / "termination.json",
        processes=processes if processes is not None else default,
        stall_timeout=job.spec.run_policy.stall_timeout_seconds,
        grace=job.spec.checkpoint.grace_seconds,
    )


def ignored_fields(job: UniMRGJob, processes: int | None) -> list[str]:
    """What the job says about a cluster and this machine does not heed, one sentence each."""
    lines = []
    if job.spec.image is not None:
        lines.append("spec.image is ignored: the installed unimrg runs")
    trainer = job.spec.trainer
    if trainer.nodes > 1:
        lines.append(f"spec.trainer.nodes ({trainer.nodes}) is ignored: this machine is one node")
    if trainer.gpus_per_node > 0 and processes is None:
        lines.append(
            f"spec.trainer.gpusPerNode ({trainer.gpus_per_node}) is ignored: one process trains; --processes N for more"
        )
    if job.spec.storage.credentials is not None:
        lines.append("spec.storage.credentials is ignored: the keys of this environment are used")
    if job.spec.tracking.mlflow.credentials is not None:
        lines.append("spec.tracking.mlflow.credentials is ignored: the keys of this environment are used")
    if trainer.volumes:
        lines.append("spec.trainer.volumes is ignored: file:// means folders of this machine")
    if "service_account_name" in trainer.model_fields_set:
        lines.append("spec.trainer.serviceAccountName is ignored: this process's own rights count")
    if "namespace" in job.metadata.model_fields_set:
        lines.append("metadata.namespace is ignored: there are none on this machine")
    policy = job.spec.run_policy
    restarts = [
        f"spec.runPolicy.{field.alias}"
        for name, field in type(policy).model_fields.items()
        if name in policy.model_fields_set and name != "stall_timeout_seconds"
    ]
    if restarts:
        are = "is" if len(restarts) == 1 else "are"
        lines.append(f"{', '.join(restarts)} {are} ignored: `unimrg run` never restarts; the same command goes on")
    return lines


def shown(uri: str) -> str:
    """A store's URI as people write it: a folder by its path."""
    return str(path_of(uri)) if uri.startswith("file://") else uri


@dataclass(frozen=True)
class _Failure:
    """A stage that did not complete, with the end of its log."""

    stage: StageName
    record: TerminationRecord
    log_lines: list[str]


@dataclass
class _Session:
    """One `unimrg run`: the stages in order, and what there is to say at the end."""

    job: UniMRGJob
    env: PodEnvironment
    run_prefix: ObjectStore
    console: Console
    rank_module: str
    already_complete: bool = False
    failed: _Failure | None = None
    """The first stage that did not complete."""

    def run(self, stop: StopRequest) -> ExitCode:
        """Run what is left to do; the first failure ends it, but a training that began is always finished."""
        if not self._completes("check", stop):
            return self._code()
        if self._was_complete():
            self.already_complete = True
            self._close(stop)
            return ExitCode.OK
        if not self._completes("prepare", stop):
            return self._code()
        trained = self._completes("train", stop)
        mode = self.job.spec.stages.evaluate.mode
        wanted = mode == "Always" or (mode == "OnSuccess" and trained)
        if wanted and self.env.attempt and not stop.twice and outcomes.newest_commit(self.run_prefix):
            self._completes("evaluate", stop)
        if self.env.attempt:
            self._finish(stop)
        return self._code()

    def report(self) -> None:
        """Say how it ended: results, or the cause and where to look."""
        console = self.console
        if self.failed is None:
            if self.already_complete:
                step = outcomes.newest_commit(self.run_prefix)
                console.print(f"This run was complete before: step {step} is committed.")
            self._print_results()
            return
        stage, record = self.failed.stage, self.failed.record
        if record.exit_code in (ExitCode.INTERRUPTED, ExitCode.INTERRUPTED_TWICE):
            step = outcomes.newest_commit(self.run_prefix)
            stands = f"step {step} is committed" if step else "nothing is committed yet"
            self._say(f"Interrupted during {stage}: {stands}. The same command goes on from there.")
            return
        console.print(f"[bold red]{stage} failed[/] ({record.exit_code}, {record.reason})")
        self._say(record.message)
        if self.failed.log_lines:
            self._say("\n".join(self.failed.log_lines), style="dim")
            self._say(f"Logs: {log_folder(self.env)}")

    def _completes(self, stage: StageName, stop: StopRequest) -> bool:
        end = execute(stage, self.env, stop, rank_module=self.rank_module)
        self.env = end.env
        if end.code is not ExitCode.OK and self.failed is None:
            self.failed = _Failure(stage, end.record, self._log_lines(stage, end.record))
        return end.code is ExitCode.OK

    def _code(self) -> ExitCode:
        return ExitCode.OK if self.failed is None else ExitCode(self.failed.record.exit_code)

    def _log_lines(self, stage: StageName, record: TerminationRecord) -> list[str]:
        """The end of the failed rank's log as it is now; a later stage writes on in it."""
        if stage not in ("train", "evaluate") or not self.env.attempt or record.exit_code in _USERS:
            return []
        lines = tail(rank_log(self.env, record.rank or 0)).decode(errors="replace").splitlines()
        return lines[-LOG_LINES:]

    def _data_digest(self) -> str:
        """The digest of the data set, also where a source describes it and it is gone."""
        return job_stores.wanted_digest(self.job, self.env) or job_stores.data_digest(self.job, self.env)

    def _was_complete(self) -> bool:
        """Nothing is left to compute, so that data which was deleted since need not be prepared again."""
        try:
            inputs.check_identity(self.job, self.env, self.run_prefix, self._data_digest())
        except UserError as error:
            logger.info("not known before the data is prepared: %s", error)
            return False  # prepare meets it too, and says it
        return outcomes.is_complete(self.run_prefix, self.job)

    def _close(self, stop: StopRequest) -> None:
        """Finish what an earlier launcher computed but did not live to close, or could not ship."""
        attempt = outcomes.unfinished_attempt(self.run_prefix)
        if attempt is not None:
            digest = self.job.training_digest(self._data_digest())
            uid = claim_identity(self.run_prefix, None, digest)
            self.env = dataclasses.replace(self.env, uid=uid, attempt=attempt)
            self._finish(stop)

    def _finish(self, stop: StopRequest) -> None:
        end = execute("finish", self.env, stop)
        if end.code is not ExitCode.OK:
            self._say(f"Tracking is incomplete: {end.record.message}")

    def _print_results(self) -> None:
        summary = outcomes.summary(self.run_prefix)
        if summary is not None:
            self.console.print(render(summary))
        self._say(f"Run: {shown(self.run_prefix.uri)}")
        tracker, (_, url) = inputs.tracker_uri(self.job, self.env), mlflow_run(self.env.run_dir)
        if tracker.startswith("sqlite:"):
            self._say(f"Curves in a browser: mlflow ui --backend-store-uri {shlex.quote(tracker)}")
        elif url is not None:
            self._say(f"MLflow: {url}")

    def _say(self, text: str, style: str | None = None) -> None:
        """Print text as it is: no markup in it, no line broken where a path would be torn."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _logging(run_dir: Path) -> Iterator[None]:
    """Send the launcher's own log to RUN_DIR/logs/launcher.log; the terminal belongs to the live view."""
    path = run_dir / "logs" / "launcher.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    ours = logging.getLogger("unimrg_trainer")
    level, propagate = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        ours.propagate = propagate
        handler.close()
