"""Outcomes of stages, stored under the run's prefix, because `finish` may run in another pod and after a SIGKILL."""

from __future__ import annotations

import json
import logging

from unimrg_api.commits import FINISHED_KEY, SUMMARY_KEY, outcome_key
from unimrg_api.digests import canonical_json, sha256_of
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, Outcome, StageName, is_skipped, outcome_of, result_of, wanted_stages
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.checkpoint.commit import best_first
from unimrg_trainer.checkpoint.identity import attempt_numbers
from unimrg_trainer.checkpoint.manifest import Unverified
from unimrg_trainer.checkpoint.reader import list_commits, verify
from unimrg_trainer.early_stop import ended_early
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError

logger = logging.getLogger(__name__)

_EVALUATED = "outcomes/evaluated.json"


def store_termination_record(run_store: ObjectStore, attempt: str, stage: str, record: TerminationRecord) -> None:
    """Store how a stage ended."""
    _store(run_store, outcome_key(attempt, stage), record.to_json())


def checkpoint_step(run_store: ObjectStore, *, best: bool = False) -> int:
    """Step of the newest checkpoint whose manifest and sizes verify, or of the best; 0 if there is none.

    Damaged ones are logged.
    """
    commits = list_commits(run_store)
    for commit in best_first(commits) if best else commits:
        try:
            verify(run_store, commit)
        except Unverified as finding:
            logger.warning("the checkpoint of step %d is damaged: %s", commit.step, finding)
        else:
            return commit.step
    return 0


def is_complete(run_store: ObjectStore, job: UniMRGJob) -> bool:
    """Whether nothing is left to compute: the checkpoint of the stop step exists and, where wanted, is evaluated."""
    if job.spec.checkpoint.resume == "Never":
        return False
    if not job.spec.trains:
        return is_evaluated(run_store, job, 0)
    step = checkpoint_step(run_store)
    if step < job.spec.training.resolved_stop_step() and not _ended_early(run_store, job, step):
        return False
    if job.spec.stages.evaluate.mode == "Never":
        return True
    best = job.spec.training.early_stop is not None
    return is_evaluated(run_store, job, checkpoint_step(run_store, best=True) if best else step)


def _ended_early(run_store: ObjectStore, job: UniMRGJob, step: int) -> bool:
    """Whether training ended with the checkpoint of `step` because measurements did not get better any more."""
    settings = job.spec.training.early_stop
    return settings is not None and step > 0 and ended_early(run_store, settings, step)


def run_outcome(run_store: ObjectStore, job: UniMRGJob, attempt: str) -> Outcome:
    """The outcome of an attempt. A stage without an outcome was killed and counts as interrupted."""
    if is_complete(run_store, job):
        return "Succeeded"
    outcomes: dict[StageName, Outcome] = {}
    for name in wanted_stages(job):
        if not STAGES[name].distributed:
            outcomes[name] = "Succeeded"  # an attempt gets its number only after these
        elif is_skipped(name, job, outcomes, checkpoint_step(run_store)):
            outcomes[name] = "Skipped"
        else:
            try:
                record = TerminationRecord.parse(run_store.get(outcome_key(attempt, name)))
                outcomes[name] = outcome_of(record.exit_code)
            except StorageError:
                outcomes[name] = "Interrupted"
    return result_of(job, outcomes) or "Interrupted"


def store_run_outcome(run_store: ObjectStore, attempt: str, outcome: Outcome, *, tracked: bool) -> None:
    """Store the outcome of an attempt, and whether its MLflow run has been closed with it."""
    _store(run_store, FINISHED_KEY, canonical_json({"attempt": attempt, "result": outcome, "tracked": tracked}))


def is_mlflow_run_closed(run_store: ObjectStore) -> bool:
    """Whether the MLflow run of the newest attempt has been closed; true without an attempt."""
    try:
        stored = json.loads(run_store.get(FINISHED_KEY))
        closed = stored["attempt"] if stored["tracked"] else None
    except (StorageError, ValueError, KeyError, TypeError):
        closed = None
    newest = max(attempt_numbers(run_store), default=None)
    return newest is None or closed == str(newest)


def record_evaluation(run_store: ObjectStore, job: UniMRGJob, found: Summary) -> None:
    """Store which weights were evaluated and how: a run that lacks its evaluation is not complete."""
    _store(run_store, _EVALUATED, canonical_json({"step": found.steps, "settings": _settings(job)}))


def is_evaluated(run_store: ObjectStore, job: UniMRGJob, step: int) -> bool:
    """Whether the weights of `step` were evaluated with this job's settings, and the results exist."""
    try:
        stored = json.loads(run_store.get(_EVALUATED))
    except (StorageError, ValueError):
        return False
    return stored == {"step": step, "settings": _settings(job)} and summary(run_store) is not None


def summary(run_store: ObjectStore) -> Summary | None:
    """Results of the evaluation; None if it has not run or they cannot be read."""
    try:
        return Summary.from_json(run_store.get(SUMMARY_KEY))
    except NotFound:
        return None
    except (StorageError, ValueError) as error:
        logger.warning("the summary of %s cannot be read: %s", run_store.uri, error)
        return None


def _store(run_store: ObjectStore, key: str, text: str) -> None:
    """Errors of the store are only logged; a missing outcome later counts as interrupted."""
    try:
        run_store.put(key, text.encode())
    except StorageError as error:
        logger.warning("%s/%s was not stored: %s", run_store.uri, key, error)


def _settings(job: UniMRGJob) -> str:
    return sha256_of([job.spec.model.family(), job.spec.stages.evaluate.model_dump(by_alias=True, mode="json")])
