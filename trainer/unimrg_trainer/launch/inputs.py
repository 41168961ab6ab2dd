"""Opens and checks what a stage needs: stores, data set, run identity and tracking server."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import uuid

from unimrg_api import plugins
from unimrg_api.cluster import SWEEP_LABEL, sweep_label
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.spec_benchmarks import EMBEDDED
from unimrg_trainer.checkpoint.identity import JOB_KEY, attempt_numbers, claim_attempt, claim_identity, find_attempt
from unimrg_trainer.job_stores import data_digest
from unimrg_trainer.storage.base import ObjectStore, StorageError, put_once
from unimrg_trainer.tracking.client import check_server
from unimrg_trainer.tracking.settings import TrackingSettings, tracking_uri

logger = logging.getLogger(__name__)


def job_of(env: PodEnvironment) -> UniMRGJob:
    """The job that the pod was given. Raises JobError."""
    try:
        content = json.loads(env.spec)
    except ValueError as error:
        raise UserError(f"UNIMRG_SPEC holds no JSON: {error}", remedy="set it to the job as canonical JSON") from error
    return parse_job(content)


def claim_run(env: PodEnvironment, job: UniMRGJob, run_store: ObjectStore) -> PodEnvironment:
    """Claim the run's prefix for this job, and assign the number of this attempt.

    Needs the data set: its digest is part of the training's identity. Attempt numbers continue after those of earlier
    jobs and `unimrg run` under the same prefix, so nothing of theirs is overwritten; a pod restarted with the same
    UNIMRG_UID and UNIMRG_ATTEMPT gets the same number again. Raises UserError for a prefix that belongs to another
    training.
    """
    uid = claim_identity(run_store, env.uid, job.trained_values(data_digest(job, env)))
    if not env.attempt and env.nodes > 1:
        raise UserError(
            "UNIMRG_ATTEMPT is not set; the pods of a job with several nodes cannot number attempts themselves",
            remedy="set it to the same number in all pods of the job",
        )
    number = claim_attempt(run_store, _start_key(env), int(env.attempt or 1))
    if env.attempt and number != int(env.attempt):
        logger.info("attempt %s of this job is attempt %d of the training under %s", env.attempt, number, run_store.uri)
    return dataclasses.replace(env, uid=uid, attempt=str(number))


def _start_key(env: PodEnvironment) -> str | None:
    """A key that all pods of one attempt share; None if UNIMRG_ATTEMPT is not set."""
    return f"{env.uid}/{env.attempt}" if env.attempt else None


def check_custom_names(job: UniMRGJob, env: PodEnvironment) -> None:
    """Check that installed packages have the job's custom names, then builds them (`engine/choices.py`).

    Raises JobError with everything that is wrong. (Custom sources are loaded with the data.)
    """
    spec = job.spec
    custom = spec.model.custom.name if spec.model.custom is not None else None
    chosen: list[tuple[str, str, str | None, tuple[str, ...]]] = [
        ("families", "spec.model", custom, spec.model.members)
    ]
    chosen += [("maps", f"spec.objectives[{i}]", item.custom, ()) for i, item in enumerate(spec.objectives or ())]
    for index, entry in enumerate(spec.stages.evaluate.benchmarks):
        custom = entry.custom.name if entry.custom is not None else None
        chosen.append(("benchmarks", f"spec.stages.evaluate.benchmarks[{index}]", custom, entry.members))
    missing = []
    for kind, path, name, built_in in chosen:
        known = plugins.names(f"unimrg.{kind}", {})
        if name in built_in:
            message, remedy = f"{name!r} is built in", f"write {path}.{name}, or give the package's another name"
            missing.append(Problem(path=f"{path}.custom", value=repr(name), message=message, remedy=remedy))
        elif name and name not in known:
            message = f"no installed package has {name!r} as an entry point of the group unimrg.{kind}"
            remedy = f"install the package that has it where the job runs; installed are: {', '.join(known) or 'none'}"
            missing.append(Problem(path=f"{path}.custom", value=repr(name), message=message, remedy=remedy))
    if missing:
        raise JobError(missing)
    reads = any(entry.key not in EMBEDDED for _, entry in spec.stages.evaluate.all_benchmarks())
    if (
        any(name for _, _, name, _ in chosen)
        or reads
        or spec.model.published is not None
        or spec.model.init is not None
    ):
        # by name, and only where something may be missing: it imports torch, which takes seconds
        importlib.import_module("unimrg_trainer.engine.choices").check_components(job, env)


def check_identity(job: UniMRGJob, env: PodEnvironment, run_store: ObjectStore, data: str) -> None:
    """Raise UserError if the prefix belongs to another training; claims nothing."""
    if run_store.size(JOB_KEY) is not None:
        claim_identity(run_store, env.uid, job.trained_values(data))


def find_run(env: PodEnvironment, job: UniMRGJob, run_store: ObjectStore) -> PodEnvironment | None:
    """Fill in uid and attempt from the run's prefix, for a stage that follows a training; None without a training.

    Uses the attempt number claimed for this pod, otherwise the newest. Raises UserError for the prefix of another
    training, whose MLflow run must not be closed.
    """
    try:
        data = data_digest(job, env, prepared=False)
    except UserError as error:
        logger.warning("the data set no longer exists; assuming that this prefix belongs to this job: %s", error)
    else:
        check_identity(job, env, run_store, data)
    start, uid = _start_key(env), env.uid
    attempt = (find_attempt(run_store, start) if start else None) or max(attempt_numbers(run_store), default=None)
    if attempt is None:
        return None
    try:
        uid = str(json.loads(run_store.get(JOB_KEY))["uid"])
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s/%s does not name the training: %s", run_store.uri, JOB_KEY, error)
    return dataclasses.replace(env, uid=uid, attempt=str(attempt))


def probe(store: ObjectStore) -> None:
    """Check permissions (list, write, read, delete) and required features (conditional writes, ranges) of a store.

    Listing comes first: some services create a missing bucket when something is written to it.
    """
    key, content = f"probe/{uuid.uuid4().hex}", b"unimrg"
    store.list("probe/")
    put_once(store, key, content)
    try:
        if put_once(store, key, b"another"):
            raise UserError(
                f"{store.uri}: this service has no conditional writes, which checkpoints require",
                remedy="use one that supports If-None-Match",
            )
        if store.get(key) != content or store.get(key, 2, 3) != content[2:5]:
            raise UserError(f"{store.uri} returned other bytes than were written", remedy="check the store")
    finally:
        store.delete(key)


def mlflow_tracking_uri(job: UniMRGJob, env: PodEnvironment) -> str:
    """The tracking server. A relative SQLite path counts from the job's folder, like every other path in it."""
    checkpoints = resolve_uri(job.spec.checkpoint.uri, env.spec_base)
    return tracking_uri(job.spec.tracking.mlflow.uri, env.spec_base, checkpoints, env.run_dir)


def tracking_settings(job: UniMRGJob, env: PodEnvironment) -> TrackingSettings:
    """The MLflow server and run of this attempt; `env` has the claimed uid and attempt."""
    mlflow = job.spec.tracking.mlflow
    return TrackingSettings(
        uri=mlflow_tracking_uri(job, env),
        experiment=mlflow.experiment,
        run_name=mlflow.run_name or job.metadata.name,
        job_uid=env.uid,
        attempt=int(env.attempt),
        node_rank=env.node_rank,
        sweep=sweep_label(job.metadata.labels).get(SWEEP_LABEL),
    )


def tracking_problem(job: UniMRGJob, env: PodEnvironment) -> str | None:
    """Return why the MLflow server will not accept the job's records; None if it will, or if it is a local database."""
    uri = job.spec.tracking.mlflow.uri or ""
    if not uri.startswith(("http://", "https://")):
        return None
    # The identity of the job may not be claimed yet, and no run is made here.
    numbered = dataclasses.replace(env, uid=env.uid or "check", attempt=env.attempt or "0")
    return check_server(tracking_settings(job, numbered))


def warn_if_tracking_fails(job: UniMRGJob, env: PodEnvironment) -> None:
    """Warn if the MLflow server will not accept the job's records; the job continues."""
    if (problem := tracking_problem(job, env)) is not None:
        logger.warning("%s. The job continues: its records stay in the spool and are uploaded later", problem)
