"""Describes a run from the small objects under its prefix: progress, commits, ends of stages, results."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from unimrg_api.commits import FINISHED_KEY, SUMMARY_KEY, outcome_key
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import NAME_PATTERN
from unimrg_api.load import load_job
from unimrg_api.progress import Progress
from unimrg_api.stages import STAGES, outcome_of
from unimrg_api.termination import TerminationRecord
from unimrg_cli.view import View
from unimrg_trainer.checkpoint.reader import CommitReport, inspect_commits
from unimrg_trainer.local_folders import PROGRESS_FILE, TERMINATION_FILE, mlflow_run, run_folder, training_in
from unimrg_trainer.storage import LocalStore, ObjectStore, open_store
from unimrg_trainer.storage.base import NotFound

Record = TypeVar("Record", Progress, TerminationRecord)
State = Literal["NotStarted", "Running", "Stopped", "Completed", "Failed"]

_STATES: dict[str, State] = {"Succeeded": "Completed", "Failed": "Failed", "Interrupted": "Stopped"}
_JOB_SUFFIXES = (".yaml", ".yml", ".json")
_OUTCOME = re.compile(outcome_key(r"(\d+)", f"({'|'.join(STAGES)})"))
_ATTEMPT = re.compile(r"attempts/(\d+)\.json")


class Outcome(View):
    """How one stage of an attempt ended."""

    attempt: int
    stage: str
    reason: str
    exit_code: int
    message: str


class RunDescription(View):
    """The state of a run, read from the objects under its prefix."""

    uri: str
    """The run's prefix."""
    state: State
    """As far as it is known here: Running only for a process of this machine."""
    uid: str | None = None
    """Identity of the job; None before the first attempt."""
    attempts: int = 0
    """Attempts that were started."""
    progress: Progress | None = None
    """The last report, one with steps unless the run goes on."""
    checkpoint: CommitReport | None = None
    """The newest commit."""
    outcomes: list[Outcome] = Field(default=[])
    """Ends of the train and evaluate stages, by attempt."""
    last_end: TerminationRecord | None = None
    """The termination record of the last stage on this machine, whichever it was."""
    results: dict[str, Any] | None = None
    """results/summary.json."""
    mlflow_url: str | None = None
    """Link to the run in MLflow."""
    mlflow_problem: str | None = None
    """Why MLflow lacks records of this run, and what to do."""


def names_cluster_job(target: str, *, explicit: bool) -> bool:
    """Return whether `target` is a job on a cluster: one is named explicitly, or no file or folder here has the name.

    Raises UserError where a cluster is named and `target` cannot be the name of a job.
    """
    possible = re.search(NAME_PATTERN, target) is not None
    if explicit and not possible:
        raise UserError(
            f"{target} is not the name of a job on a cluster",
            remedy="give the name alone (metadata.name of its file), or leave out -n, --context and --kubeconfig",
        )
    return possible and (explicit or not Path(target).exists())


def open_run(target: str) -> ObjectStore:
    """Open the prefix of the run that a job's file, a folder or a URI names.

    Raises JobError for a job's file that is wrong, UserError (INPUT_MISSING) for what names no run; a job's file may
    name one to come.
    """
    return locate_run(target)[0]


def is_job_file(target: str) -> bool:
    """Return whether `target` is meant as a job's file, which may be missing, and not as a run's folder or URI."""
    path = Path(target)
    return "://" not in target and not path.is_dir() and (path.suffix.lower() in _JOB_SUFFIXES or path.is_file())


def locate_run(target: str) -> tuple[ObjectStore, LocalStore]:
    """Open the prefix of the run that `target` names, and this machine's folder of it; raises as `open_run` does."""
    path, storage = Path(target), None
    if "://" in target:
        uri = resolve_uri(target, Path.cwd())
    elif path.is_dir():
        uri = path.resolve().as_uri()
    elif is_job_file(target):
        spec = load_job(path).spec
        uri, storage = resolve_uri(spec.checkpoint.uri, path.resolve().parent), spec.storage
    else:
        raise UserError(
            f"{target} is neither a job's file nor a run",
            remedy="give the job's YAML file, the run's folder, or its URI",
            exit_code=ExitCode.INPUT_MISSING,
        )
    store = open_store(uri, storage)
    local = LocalStore(run_folder(store.uri, storage))
    begun_here = (local.root / PROGRESS_FILE).exists()
    begun = begun_here or store.size("job.json") is not None or any(store.list(key) for key in ("attempts/", "ckpt/"))
    if not path.is_file() and not begun:
        raise UserError(
            f"there is no run under {store.uri}",
            remedy="start it with `unimrg run FILE`, or correct the URI",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return store, local


def describe_run(target: str) -> RunDescription:
    """Describe the run that a job's file, a folder or a URI names. Raises UserError as `open_run` does."""
    store, local = locate_run(target)
    uid = json_object(store, "job.json").get("uid")
    ours = training_in(local.root) in (None, uid)  # otherwise the local files belong to an earlier run
    progress = _read(local, PROGRESS_FILE, Progress.parse) if ours else None
    attempts = [int(match[1]) for key, _ in store.list("attempts/") if (match := _ATTEMPT.fullmatch(key))]
    checkpoints = inspect_commits(store)
    outcomes = _outcomes(store)
    last_end = _read(local, TERMINATION_FILE, TerminationRecord.parse) if ours else None
    mlflow = mlflow_run(local.root) if ours else {}
    at_rest = _state_at_rest(store, outcomes, max(attempts, default=None), progress, last_end)
    running = is_running(local.root / "lock")
    shows_progress = progress is not None and (running or progress.step)  # that of a check is stale once it is over
    return RunDescription(
        uri=store.uri,
        state="Running" if running else at_rest,
        uid=uid if isinstance(uid, str) else None,
        attempts=len(attempts),
        progress=progress if shows_progress else None,
        checkpoint=checkpoints[0] if checkpoints else None,
        outcomes=outcomes,
        last_end=last_end,
        results=json_object(store, SUMMARY_KEY) or None,
        mlflow_url=(progress.mlflow_url if progress is not None else None) or mlflow.get("url"),
        mlflow_problem=mlflow.get("problem") or None,
    )


def json_object(store: ObjectStore, key: str) -> dict[str, Any]:
    """Return the JSON object under a key; empty if it is missing or damaged."""
    try:
        value = json.loads(store.get(key))
    except (NotFound, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _state_at_rest(
    store: ObjectStore,
    outcomes: list[Outcome],
    attempt: int | None,
    progress: Progress | None,
    last_end: TerminationRecord | None,
) -> State:
    """Return the state of a run that no process here works on; `attempt` is the newest one that was started."""
    if attempt is None:  # only check and prepare have run
        if last_end is None or last_end.exit_code == ExitCode.OK:
            return "NotStarted" if progress is None else "Stopped"
        return _STATES[outcome_of(last_end.exit_code)]
    finished = json_object(store, FINISHED_KEY)
    if finished.get("attempt") == str(attempt) and str(finished.get("result")) in _STATES:
        return _STATES[str(finished["result"])]
    ends = {outcome_of(outcome.exit_code) for outcome in outcomes if outcome.attempt == attempt}
    return "Failed" if "Failed" in ends else "Stopped"  # `finish` has not run: the attempt was killed


def is_running(lock: Path) -> bool:
    """Return whether the process that the file of a run's lock names is alive.

    The lock itself is not tried: to hold it for an instant would make a run that starts just then fail.
    """
    try:
        match = re.match(r"process (\d+)", lock.read_text(errors="replace"))
        if match is None:
            return False
        os.kill(int(match[1]), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _read(local: ObjectStore, key: str, parse: Callable[[bytes], Record | None]) -> Record | None:
    try:
        return parse(local.get(key))
    except NotFound:
        return None


def _outcomes(store: ObjectStore) -> list[Outcome]:
    found = []
    for key, _ in store.list("outcomes/"):
        match = _OUTCOME.fullmatch(key)
        if match is None:
            continue
        record = TerminationRecord.parse(store.get(key)).model_dump(include={"reason", "exit_code", "message"})
        found.append(Outcome(attempt=int(match[1]), stage=match[2], **record))
    order = list[str](STAGES)
    return sorted(found, key=lambda outcome: (outcome.attempt, order.index(outcome.stage)))
