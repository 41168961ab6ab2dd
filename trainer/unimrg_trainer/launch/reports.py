"""Reports of this pod: its progress, with the MLflow run in it, and its termination record."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_api.exit_codes import ExitCode
from unimrg_api.progress import Progress
from unimrg_api.stages import STAGES, StageName
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.watchdog import Heartbeat
from unimrg_trainer.local_folders import PROGRESS_FILE, mlflow_run, write_progress
from unimrg_trainer.sections import read_positions

logger = logging.getLogger(__name__)

_OF_ONE_RANK = (
    ExitCode.PROGRAM,
    ExitCode.GPU_FAULT,
    ExitCode.PREFLIGHT,
    ExitCode.COMMUNICATION,
    ExitCode.KILLED,
    ExitCode.TERMINATED,
)
"""What concerns the process, or the node, where it happened; all else is said of the job, whoever noticed it first."""


def read_progress(run_dir: Path) -> Progress:
    """Return progress.json, with run id, URL and present problem from mlflow.json.

    Missing fields have their defaults.
    """
    progress = _progress(run_dir)
    tracked = mlflow_run(run_dir)
    return progress.model_copy(
        update={
            "mlflow_run_id": progress.mlflow_run_id or tracked.get("run_id"),
            "mlflow_url": progress.mlflow_url or tracked.get("url"),
            "mlflow_problem": tracked.get("problem") or None,
        }
    )


def heartbeat(run_dir: Path) -> Heartbeat | None:
    """A value that changes with the progress of this node's ranks; None before the first sign of life."""
    progress, positions = _progress(run_dir), read_positions(run_dir)
    if not progress.updated and not positions:
        return None
    return Heartbeat(progress.stage, progress.step, progress.updated, positions)


def report_stage(
    run_dir: Path, stage: StageName, step: int = 0, total_steps: int = 0, eta_seconds: float | None = None
) -> None:
    """Write the launcher's progress in a stage; resets steps and losses, keeps the last checkpoint and the notice."""
    last = _progress(run_dir)
    report = Progress(stage=stage, step=step, total_steps=total_steps, eta_seconds=eta_seconds)
    kept = {"checkpoint_step": last.checkpoint_step, "notice": last.notice}
    write_progress(run_dir, report.model_copy(update=kept))


def termination_record(
    result: ExitResult, env: PodEnvironment, scores: dict[str, float] | None = None
) -> TerminationRecord:
    """The result with the progress of training; steps of other stages are not steps of training."""
    progress = read_progress(env.run_dir)
    one_rank = result.code in _OF_ONE_RANK and env.nodes * env.processes > 1
    training = STAGES[progress.stage].trains and progress.total_steps > 0
    finished_step = progress.step if training else progress.checkpoint_step
    return TerminationRecord(
        reason=result.reason,
        exit_code=int(result.code),
        rank=result.rank,
        step=finished_step,
        total_steps=progress.total_steps if training else None,
        checkpoint_step=progress.checkpoint_step,
        mlflow_run_id=progress.mlflow_run_id,
        mlflow_url=progress.mlflow_url,
        scores=scores or {},
        message=f"rank {result.rank}: {result.message}" if result.rank is not None and one_rank else result.message,
    )


def write_termination(env: PodEnvironment, record: TerminationRecord) -> None:
    """Overwrite the record in place: in a pod the file is a mount and cannot be replaced."""
    try:
        descriptor = os.open(env.termination_log, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        logger.warning("no termination record at %s: %s", env.termination_log, error)
        return
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, record.to_json().encode())
    except OSError as error:
        logger.warning("the termination record at %s is incomplete: %s", env.termination_log, error)
    finally:
        os.close(descriptor)


def _progress(run_dir: Path) -> Progress:
    try:
        content = (run_dir / PROGRESS_FILE).read_bytes()
    except OSError:
        return Progress()
    return Progress.parse(content) or Progress()
