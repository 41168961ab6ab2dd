"""How stages ended, kept beside the checkpoints for `finish`, which may run in another pod and after a
SIGKILL.
"""

from __future__ import annotations

import json
import logging

from unimrg_api.digests import canonical_json, sha256_of
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.checkpoint.layout import survey
from unimrg_trainer.evaluation.summary import FILE_NAME, Summary
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError
from unimrg_trainer.tracking import TerminalStatus

logger = logging.getLogger(__name__)

_EVALUATED = "outcomes/evaluated.json"
_FINISHED = "outcomes/finished.json"
_STOPPED = (ExitCode.INTERRUPTED, ExitCode.INTERRUPTED_TWICE, ExitCode.TERMINATED)


def outcome_key(attempt: str, stage: str) -> str:
    """Key of a stage's outcome below the run's prefix."""
    return f"outcomes/attempt-{attempt}-{stage}.json"


def note(run: ObjectStore, attempt: str, stage: str, record: TerminationRecord) -> None:
    """Keep how a stage ended. A store that refuses is only logged: without a note `finish` takes it as
    killed.
    """
    try:
        run.put(outcome_key(attempt, stage), record.to_json().encode())
    except StorageError as error:
        logger.warning("the outcome of %s was not kept: %s", stage, error)


def newest_commit(run: ObjectStore) -> int:
    """Step of the newest commit, 0 if there is none; its content is not looked at."""
    return max((marker.step for marker in survey(run.list("ckpt/")).candidates()), default=0)


def is_complete(run: ObjectStore, job: UniMRGJob) -> bool:
    """The stop step is committed and, where wanted, evaluated: nothing is left to compute."""
    step = newest_commit(run)
    if job.spec.checkpoint.resume == "Never" or step < job.spec.training.resolved_stop_step():
        return False
    return job.spec.stages.evaluate.mode == "Never" or is_evaluated(run, job, step)


def note_finished(run: ObjectStore, attempt: str) -> None:
    """Keep that the tracked run of this attempt has its last point and its status."""
    try:
        run.put(_FINISHED, canonical_json({"attempt": attempt}).encode())
    except StorageError as error:
        logger.warning("the end of the tracked run was not noted: %s", error)


def unfinished_attempt(run: ObjectStore) -> str | None:
    """The newest attempt, if nothing says that its tracked run was closed."""
    attempts = [key.removeprefix("attempts/").removesuffix(".json") for key, _ in run.list("attempts/")]
    newest = max((name for name in attempts if name.isdigit()), key=int, default=None)
    try:
        noted = json.loads(run.get(_FINISHED))
    except (StorageError, ValueError):
        return newest
    return None if noted == {"attempt": newest} else newest


def status_of(run: ObjectStore, attempt: str, job: UniMRGJob) -> TerminalStatus:
    """How the run ended: FINISHED if all that was wanted completed, KILLED if it was stopped or left no
    word.
    """
    if is_complete(run, job):
        return "FINISHED"
    codes = [_code(run, attempt, "train")]
    mode = job.spec.stages.evaluate.mode
    if mode == "Always" or (mode == "OnSuccess" and codes == [ExitCode.OK]):
        codes.append(_code(run, attempt, "evaluate"))
    if all(code == ExitCode.OK for code in codes):
        return "FINISHED"
    if any(code is not None and code != ExitCode.OK and code not in _STOPPED for code in codes):
        return "FAILED"
    return "KILLED"


def note_evaluation(run: ObjectStore, job: UniMRGJob) -> None:
    """Keep which weights were evaluated and how, so that a run which is complete can be told from one that is
    not.
    """
    found = summary(run)
    if found is not None:
        content = {"step": found.steps, "settings": _settings(job)}
        try:
            run.put(_EVALUATED, canonical_json(content).encode())
        except StorageError as error:
            logger.warning("the evaluation was not noted: %s", error)


def is_evaluated(run: ObjectStore, job: UniMRGJob, step: int) -> bool:
    """The weights of `step` were evaluated as this job wants it, and the results are there."""
    try:
        noted = json.loads(run.get(_EVALUATED))
    except (StorageError, ValueError):
        return False
    return noted == {"step": step, "settings": _settings(job)} and summary(run) is not None


def summary(run: ObjectStore) -> Summary | None:
    """What the evaluation found; None if it has not run or left nothing that can be read."""
    try:
        return Summary.from_json(run.get(f"results/{FILE_NAME}"))
    except NotFound:
        return None
    except (StorageError, ValueError) as error:
        logger.warning("the summary of %s cannot be read: %s", run.uri, error)
        return None


def _settings(job: UniMRGJob) -> str:
    return sha256_of([job.spec.model.family(), job.spec.stages.evaluate.model_dump(by_alias=True, mode="json")])


def _code(run: ObjectStore, attempt: str, stage: str) -> int | None:
    try:
        return TerminationRecord.parse(run.get(outcome_key(attempt, stage))).exit_code
    except StorageError:
        return None
