"""What the stages need of the job's surroundings: stores, data set, identity and tracking server."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import uuid
from collections.abc import Iterator

from unimrg_api import plugins
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_trainer.checkpoint.identity import JOB, attempt_numbers, claim_attempt, claim_identity, find_attempt
from unimrg_trainer.job_stores import data_digest, wanted_digest
from unimrg_trainer.storage.base import ObjectStore, StorageError, put_once
from unimrg_trainer.tracking.server_check import check_server
from unimrg_trainer.tracking.settings import TrackingSettings, tracking_uri

logger = logging.getLogger(__name__)


def job_of(env: PodEnvironment) -> UniMRGJob:
    """The job that the pod was given. Raises JobError."""
    try:
        content = json.loads(env.spec)
    except ValueError as error:
        raise UserError(f"UNIMRG_SPEC holds no JSON: {error}", remedy="set it to the job as canonical JSON") from error
    return parse_job(content)


def claim(env: PodEnvironment, job: UniMRGJob, run: ObjectStore) -> PodEnvironment:
    """Make the run's prefix this job's, or see that it is, and number this start of the training.

    Needs the data set, whose digest is part of what makes two jobs the same training. Under a prefix the numbers go on
    where an earlier job's object or `unimrg run` left off, so nothing of theirs is overwritten; a pod that comes back
    with the same UNIMRG_UID and UNIMRG_ATTEMPT has the same number again. Raises UserError for a prefix that belongs to
    another training.
    """
    uid = claim_identity(run, env.uid, job.training_digest(data_digest(job, env)))
    if not env.attempt and env.nodes > 1:
        raise UserError(
            "UNIMRG_ATTEMPT is not set, and pods of several nodes cannot each count for themselves",
            remedy="set it to the same number in all pods of the job",
        )
    number = claim_attempt(run, _start(env), int(env.attempt or 1))
    if env.attempt and number != int(env.attempt):
        logger.info("attempt %s of this job is attempt %d of the training under %s", env.attempt, number, run.uri)
    return dataclasses.replace(env, uid=uid, attempt=str(number))


def _start(env: PodEnvironment) -> str | None:
    """What all pods of one start of the training share; None if whoever started this one did not count."""
    return f"{env.uid}/{env.attempt}" if env.attempt else None


def check_choices(job: UniMRGJob, env: PodEnvironment) -> None:
    """See that installed packages have what the job chooses as custom, and take it; that the model's files are there.

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
    if any(name for _, _, name, _ in chosen) or spec.model.published is not None:
        # by name, and only where something may be missing: it imports torch, which takes seconds
        importlib.import_module("unimrg_trainer.engine.choices").check_choices(job, env)


def check_identity(job: UniMRGJob, env: PodEnvironment, run: ObjectStore, data: str) -> None:
    """See that the prefix is not another training's; it is not claimed yet."""
    if run.size(JOB) is not None:
        claim_identity(run, env.uid, job.training_digest(data))


def identified(env: PodEnvironment, job: UniMRGJob, run: ObjectStore) -> PodEnvironment | None:
    """Complete uid and attempt from what is under the prefix, for a stage that follows a training; None without one.

    The attempt is that of this start, else the newest. Raises UserError for the prefix of another training, whose run
    is not ours to close.
    """
    try:
        data = wanted_digest(job, env) or data_digest(job, env)
    except UserError as error:
        logger.warning("the data set is not known any more, the training is assumed to be this job's: %s", error)
    else:
        check_identity(job, env, run, data)
    start, uid = _start(env), env.uid
    attempt = (find_attempt(run, start) if start else None) or max(attempt_numbers(run), default=None)
    if attempt is None:
        return None
    try:
        uid = str(json.loads(run.get(JOB))["uid"])
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s/%s does not name the training: %s", run.uri, JOB, error)
    return dataclasses.replace(env, uid=uid, attempt=str(attempt))


@contextlib.contextmanager
def named(field: str) -> Iterator[None]:
    """Have errors of the block begin with the field of the job that they are about."""
    try:
        yield
    except JobError:
        raise  # names its fields itself
    except UserError as error:
        if error.message.startswith(field):
            raise
        message = f"{field}: {error.message}"
        raise type(error)(message, remedy=error.remedy, exit_code=error.exit_code) from error


def probe(store: ObjectStore) -> None:
    """List, write, read and delete, so that missing rights show before anything is computed, and what the store lacks.

    Listing comes first: some services make a bucket that is missing when something is written to it.
    """
    key, content = f"probe/{uuid.uuid4().hex}", b"unimrg"
    store.list("probe/")
    put_once(store, key, content)
    try:
        if put_once(store, key, b"another"):
            raise UserError(
                f"{store.uri}: this service has no conditional writes, which commits rest on",
                remedy="use one that supports If-None-Match",
            )
        if store.get(key) != content or store.get(key, 2, 3) != content[2:5]:
            raise UserError(f"{store.uri} returned other bytes than were written", remedy="check the store")
    finally:
        store.delete(key)


def tracker_uri(job: UniMRGJob, env: PodEnvironment) -> str:
    """The tracking server. A relative SQLite path counts from the job's folder, like every other path in it."""
    checkpoints = resolve_uri(job.spec.checkpoint.uri, env.spec_base)
    return tracking_uri(job.spec.tracking.mlflow.uri, env.spec_base, checkpoints, env.run_dir)


def tracking_settings(job: UniMRGJob, env: PodEnvironment) -> TrackingSettings:
    """Which run of which server this attempt belongs to; uid and attempt have been claimed."""
    mlflow = job.spec.tracking.mlflow
    return TrackingSettings(
        uri=tracker_uri(job, env),
        experiment=mlflow.experiment,
        run_name=mlflow.run_name or job.metadata.name,
        job_uid=env.uid,
        attempt=int(env.attempt),
    )


def warn_of_tracking_server(job: UniMRGJob, env: PodEnvironment) -> None:
    """Log why the MLflow server will not take what the job sends; the job runs all the same."""
    uri = job.spec.tracking.mlflow.uri or ""
    if uri.startswith(("http://", "https://")):
        # The identity of the job may not be claimed yet, and no run is made here.
        numbered = dataclasses.replace(env, uid=env.uid or "check", attempt=env.attempt or "0")
        problem = check_server(tracking_settings(job, numbered))
        if problem is not None:
            logger.warning("%s. The job runs all the same: its records are kept and uploaded later", problem)
