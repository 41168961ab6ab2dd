"""Shows the logs of a job's pods on a cluster, else what its launchers kept of them, else why there are none."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from unimrg_api.cluster import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, TRAINER_CONTAINER, node_rank
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec, TrainerSpec
from unimrg_api.stages import STAGES, TRAINING, StageName
from unimrg_api.status import StageStatus
from unimrg_cli.cluster_client import Cluster, ServerError
from unimrg_cli.cluster_view import ClusterJob, end_text, headline, one_line, read_job

POLL_SECONDS = 2.0
_OUTPUT = threading.Lock()


@dataclass(frozen=True)
class Selection:
    """Which logs are wanted."""

    stage: str | None = None
    """None: the stage that failed first, else the newest."""
    attempt: int | None = None
    """None: the newest of the stage."""
    node: int | None = 0
    """Rank of the node; None: all of them."""
    rank: int | None = None
    """Rank of a training process; None: the first of each node, whose log its pod repeats."""
    tail: int | None = None
    """Lines at the end; None: all."""
    follow: bool = False
    """Whether to wait for the pods to start, and then for what they write until they end."""


@dataclass(frozen=True)
class _Pod:
    name: str
    rank: int
    waiting: str
    """Why its trainer has not started; empty: it has."""


def show_logs(cluster: Cluster, name: str, wanted: Selection) -> None:
    """Write the logs to standard output; lines of several nodes begin with `[node N]`.

    Where the pods are gone, or the rank that is wanted is not the one whose log they repeat, that is what launchers
    left beside the checkpoints when the attempt ended. Raises UserError where there are none, with the reason:
    UNAVAILABLE where there may be some soon, else INPUT_MISSING.
    """
    shown = ""
    while True:
        job = read_job(cluster.job(name))
        try:
            stage = _stage(job, wanted.stage)
            wanted = _on_a_node(job, stage, wanted)
            pods = _pods(cluster, job, stage, wanted)
            break
        except _GoneError as gone:
            _show_kept(job, gone, wanted)
            return
        except UserError as reason:
            if not wanted.follow or reason.exit_code is not ExitCode.UNAVAILABLE:
                raise
            if reason.message != shown:
                _note(f"{reason.message}; waiting for it")
                shown = reason.message
        time.sleep(POLL_SECONDS)
    kept, errors = _kept(job, stage.name), list[Exception]()

    def copy(pod: _Pod) -> None:
        try:
            _copy(cluster, wanted, pod, kept)
        except Exception as error:
            errors.append(error)

    for pod in pods:
        if pod.waiting:
            _note(f"the pod {pod.name} has not started: {pod.waiting}")
    threads = [threading.Thread(target=copy, args=(pod,), daemon=True) for pod in pods if not pod.waiting]
    for thread in threads:
        thread.start()
        if not wanted.follow:
            thread.join()  # one log after the other
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _GoneError(UserError):
    """No pod has the log; launchers may have kept it."""

    def __init__(self, message: str, job: ClusterJob, stage: StageStatus, attempt: int) -> None:
        super().__init__(message, remedy=_kept(job, stage.name), exit_code=ExitCode.INPUT_MISSING)
        self.stage: StageName = stage.name
        self.attempt = attempt


def _on_a_node(job: ClusterJob, stage: StageStatus, wanted: Selection) -> Selection:
    """Return the selection with the node whose pod repeats the log of the rank that is wanted.

    Raises _GoneError for a rank whose log no pod repeats.
    """
    nodes = TrainerSpec.model_validate(job.spec.get("trainer") or {}).nodes if STAGES[stage.name].distributed else 1
    ranks = nodes * _ranks_per_node(job) if STAGES[stage.name].distributed else 1
    _known("node", wanted.node, nodes)
    _known("rank", wanted.rank, ranks)
    if wanted.rank is None:
        return wanted
    node, place = divmod(wanted.rank, _ranks_per_node(job))
    if place and STAGES[stage.name].distributed:
        attempt = wanted.attempt or stage.attempt
        message = f"the pod of node {node} repeats the log of its first rank only, {wanted.rank - place}"
        if attempt == stage.attempt and stage.attempt_end is None and not _has_ended(job):
            message += f"; that of rank {wanted.rank} is kept when attempt {attempt} of {stage.name} ends"
        raise _GoneError(message, job, stage, attempt)
    return replace(wanted, node=node)


def _known(what: str, number: int | None, count: int) -> None:
    """Raise UserError for the number of a node or rank that the stage does not have."""
    if number is not None and number >= count:
        known = f"its {what}s are {', '.join(map(str, range(min(count, 8))))}{f' … {count - 1}' if count > 8 else ''}"
        only = f"its only {what} is 0"
        raise UserError(
            f"there is no {what} {number}; {known if count > 1 else only}", exit_code=ExitCode.INPUT_MISSING
        )


def _ranks_per_node(job: ClusterJob) -> int:
    trainer = TrainerSpec.model_validate(job.spec.get("trainer") or {})
    return trainer.processes // trainer.nodes


def _show_kept(job: ClusterJob, gone: _GoneError, wanted: Selection) -> None:
    """Write what launchers kept of an attempt. Raises UserError, with the reason why no pod has it, if they did not."""
    if not STAGES[gone.stage].distributed:
        raise gone
    from unimrg_cli.kept_logs import KeptSelection, show_kept
    from unimrg_trainer.checkpoint.identity import find_attempt
    from unimrg_trainer.storage import open_store

    # an evaluation bears the number of the training that it is about, if there was one
    trained = 0 if job.status is None else job.status.stage(TRAINING).attempt
    counted = gone.attempt if STAGES[gone.stage].trains else trained or gone.attempt
    rank = wanted.rank if wanted.rank is not None or wanted.node is None else wanted.node * _ranks_per_node(job)
    try:
        storage = StorageSpec.model_validate(job.spec.get("storage") or {})
        store = open_store(job.checkpoint_uri.rstrip("/"), storage)
        attempt = find_attempt(store, f"{job.uid}/{counted}") or counted
        show_kept(store, KeptSelection(gone.stage, attempt, rank, wanted.tail))
    except (UserError, ImportError, ValueError) as error:
        reason = error.message if isinstance(error, UserError) else str(error)
        remedy = f"{gone.remedy}; it cannot be read from here: {reason}" if gone.remedy else ""
        raise UserError(gone.message, remedy=remedy, exit_code=gone.exit_code) from None
    _note(f"{gone.message}; this is what was kept under {job.checkpoint_uri.rstrip('/')}/logs/attempt-{attempt}/")


def _copy(cluster: Cluster, wanted: Selection, pod: _Pod, remedy: str) -> None:
    """Copy one log to standard output, whole lines at a time. Raises UserError where it cannot be read."""
    prefix = f"[node {pod.rank}] " if wanted.node is None else ""
    try:
        for line in cluster.log(pod.name, follow=wanted.follow, tail=wanted.tail):
            with _OUTPUT:
                sys.stdout.write(f"{prefix}{line}" if line.endswith("\n") else f"{prefix}{line}\n")
                sys.stdout.flush()
    except ServerError as error:
        if error.exit_code is ExitCode.CREDENTIALS:
            raise
        message = f"the log of {pod.name} cannot be read: {error.message}"
        raise UserError(message, remedy=remedy, exit_code=error.exit_code) from None


def _stage(job: ClusterJob, wanted: str | None) -> StageStatus:
    """Return the stage whose logs are meant. Raises UserError where it has not begun."""
    begun = [stage for stage in (job.status.stages if job.status is not None else []) if stage.attempt]
    failed = [stage for stage in begun if stage.state == "Failed"]
    found = (failed[:1] or begun[-1:]) if wanted is None else [stage for stage in begun if stage.name == wanted]
    if not found:
        begun_text = "nothing has begun" if wanted is None else f"the stage {wanted} has not begun"
        raise _none(f"there is no log: {begun_text}", job)
    return found[0]


def _pods(cluster: Cluster, job: ClusterJob, stage: StageStatus, wanted: Selection) -> list[_Pod]:
    """Return the pods whose logs are wanted, by rank, at least one of them started; all of them, to be followed.

    Raises UserError where there are none.
    """
    attempt = wanted.attempt or stage.attempt
    labels = {JOB_LABEL: job.name, STAGE_LABEL: stage.name, ATTEMPT_LABEL: str(attempt)}
    pods = sorted(map(_read_pod, cluster.pods(labels)), key=lambda pod: (pod.rank, pod.name))
    chosen = [pod for pod in pods if wanted.node is None or pod.rank == wanted.node]
    what, newest = f"attempt {attempt} of {stage.name}", attempt == stage.attempt
    if chosen:
        waiting = [pod for pod in chosen if pod.waiting]
        if len(waiting) == len(chosen) or (waiting and wanted.follow):
            raise _none(f"the pod {waiting[0].name} has not started: {waiting[0].waiting}", job, soon=True)
        if wanted.follow and wanted.node is None and newest and stage.state == "Starting":
            raise _none(f"{what} has not started on all of its nodes", job, soon=True)
        return chosen
    if pods:
        ranks = ", ".join(str(pod.rank) for pod in pods)
        soon = newest and stage.state == "Starting"
        raise _none(f"{what} has no pod of node {wanted.node}, only of {ranks}", job, soon=soon)
    if attempt > stage.attempt:
        raise _none(f"there is no {what}: its attempts are 1…{stage.attempt}", job)
    if newest and stage.attempt_end is None and not _has_ended(job):
        raise _none(f"{what} has no pod yet", job)
    end = f"; it ended: {end_text(stage.attempt_end)}" if newest and stage.attempt_end is not None else ""
    raise _GoneError(f"the pods of {what} are gone, and their logs with them{end}", job, stage, attempt)


def _read_pod(value: dict[str, Any]) -> _Pod:
    metadata = value.get("metadata") or {}
    return _Pod(str(metadata.get("name")), node_rank(value), _waiting(value.get("status") or {}))


def _waiting(status: dict[str, Any]) -> str:
    """Return why the trainer of a pod has not started; empty if it has, or if the pod ended before it could."""
    for container in status.get("containerStatuses") or []:
        if container.get("name") == TRAINER_CONTAINER:
            waiting = (container.get("state") or {}).get("waiting")
            return "" if waiting is None else _reason(waiting, "Waiting")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return _reason(condition, "Unschedulable")
    return "" if status.get("phase") in ("Succeeded", "Failed") else "its node has not started it yet"


def _reason(state: dict[str, Any], default: str) -> str:
    reason, message = str(state.get("reason") or default), one_line(str(state.get("message") or ""))
    return f"{reason}: {message}" if message else reason


def _has_ended(job: ClusterJob) -> bool:
    return job.status is not None and job.status.phase in ("Succeeded", "Failed")


def _none(message: str, job: ClusterJob, *, soon: bool | None = None) -> UserError:
    """Return why there is no log; `soon`: there may be one in a while (None: as long as the job goes on)."""
    if soon is None:
        soon = not _has_ended(job)
        message += f" ({headline(job)})"
    if not soon:
        return UserError(message, exit_code=ExitCode.INPUT_MISSING)
    remedy = "ask again in a while, or wait for it with --follow"
    if job.status is None:
        remedy += f"; is unimrg-operator running, and does it watch the namespace {job.namespace}?"
    return UserError(message, remedy=remedy, exit_code=ExitCode.UNAVAILABLE)


def _kept(job: ClusterJob, stage: StageName) -> str:
    """Return where launchers leave the end of the ranks' logs; empty for a stage that has no ranks."""
    if not STAGES[stage].distributed:
        return ""
    return f"what its ranks wrote last is kept under {job.checkpoint_uri.rstrip('/')}/logs/attempt-N/"


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
