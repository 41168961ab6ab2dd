"""From cached objects to an Observation: tolerant, because anybody may have written what stands in them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError

from unimrg_api import cluster
from unimrg_api.errors import JobError
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.locality import cluster_problems
from unimrg_api.stages import StageName
from unimrg_api.status import JobStatus, Ledger, StageStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.core.observation import Child, ObservedJob, Pod, Terminated
from unimrg_operator.kube.client import Object

logger = logging.getLogger(__name__)

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

UID_VARIABLE = "UNIMRG_UID"
"""Environment variable of every pod that holds the uid of its UniMRGJob."""

_MOST_DROPPED = 256
"""A status with more than so many parts that cannot be read is not ours."""
_SAYS_NOTHING = ("", "ContainerCreating", "PodInitializing")
"""Waiting reasons that every pod has for a while."""


def observe_job(item: Object) -> ObservedJob:
    """Read a UniMRGJob object: its spec if it parses and fits a cluster, its status as far as it does."""
    metadata = dig(item, "metadata")
    name, namespace = text_of(metadata, "name"), text_of(metadata, "namespace")
    job, problem = _parse(item, name, namespace)
    return ObservedJob(
        name=name,
        namespace=namespace,
        uid=text_of(metadata, "uid"),
        generation=int_of(metadata, "generation"),
        job=job,
        status=read_status(item.get("status")),
        problem=problem,
        deleting=bool(dig(metadata, "deletionTimestamp")),
    )


def observe_child(item: Object, notices: tuple[str, ...] = ()) -> Child | None:
    """Read a child; None for what has no stage or number and hence was not made by us."""
    labels = dig(item, "metadata", "labels")
    stage = _stage(labels)
    attempt = int_of(labels, cluster.ATTEMPT_LABEL)
    if stage is None or attempt < 1:
        return None
    metadata = item["metadata"]
    annotations = dig(metadata, "annotations")
    return Child(
        name=text_of(metadata, "name"),
        uid=text_of(metadata, "uid"),
        stage=stage,
        attempt=attempt,
        created=time_of(dig(metadata, "creationTimestamp")) or 0.0,
        state=_child_state(item),
        ledger=_read_ledger(text_of(annotations, cluster.LEDGER_ANNOTATION)),
        deleting=bool(dig(metadata, "deletionTimestamp")),
        notices=notices,
    )


def observe_pod(item: Object, notices: tuple[str, ...] = ()) -> Pod:
    """Read a pod of a child."""
    metadata, spec, status = dig(item, "metadata"), dig(item, "spec"), dig(item, "status")
    conditions = {text_of(condition, "type"): condition for condition in dicts_of(status, "conditions")}
    created = time_of(dig(metadata, "creationTimestamp")) or 0.0
    grace = int_of(spec, "terminationGracePeriodSeconds", 30)
    deletion = time_of(dig(metadata, "deletionTimestamp"))
    if deletion is not None:
        grace = int_of(metadata, "deletionGracePeriodSeconds", grace)
    reason, message = _waiting(status, conditions)
    return Pod(
        name=text_of(metadata, "name"),
        uid=text_of(metadata, "uid"),
        child=text_of(owner_of(item), "name"),
        node_rank=int_of(dig(metadata, "labels"), cluster.NODE_RANK_LABEL),
        phase=_phase(text_of(status, "phase")),
        created=created,
        node=text_of(spec, "nodeName") or None,
        ip=text_of(status, "podIP") or None,
        deleting_since=None if deletion is None else deletion - grace,
        grace_seconds=grace,
        waiting_reason=reason,
        waiting_message=message,
        disruption=_disruption(status, conditions),
        terminated=_terminated(status, conditions, created),
        notices=notices,
    )


def presumed_child(stage: StageStatus) -> Child:
    """Return the child that a job's status tells of, where nobody can be asked whether it is still there."""
    created = time_of(stage.attempt_time) or 0.0
    return Child(stage.child or "", stage.child_uid or "", stage.name, stage.attempt, created, "Active", stage.ledger)


def is_pod_of(item: Object, job_uid: str, child_uids: Iterable[str]) -> bool:
    """Whether a pod belongs to this job and not to an earlier one of the same name.

    The child that owns it may be gone already, or not be heard of yet; then the pod's environment tells.
    """
    if text_of(owner_of(item), "uid") in child_uids:
        return True
    return job_uid in _job_uids_in(item)


def is_pod_of_namesake(item: Object, job_uid: str, child_uids: Iterable[str]) -> bool:
    """Whether a pod, which has this job's label, belongs to another job: to an earlier one of the same name."""
    return bool(owner_of(item)) and bool(_job_uids_in(item)) and not is_pod_of(item, job_uid, child_uids)


def owner_of(item: Object) -> Mapping[str, Any]:
    """Return the owner reference of the controller of an object; empty if it has none."""
    owners = dicts_of(item, "metadata", "ownerReferences")
    return next((owner for owner in owners if owner.get("controller") is True), {})


def read_status(value: Any) -> JobStatus:
    """Return the status that is stored, without the parts of it that cannot be read.

    Only those go: the phase tells whether the job is over, and what a ledger says cannot be rebuilt.
    """
    kept = copy.deepcopy(value) if isinstance(value, dict) else {}
    for _ in range(_MOST_DROPPED):
        try:
            return JobStatus.model_validate(kept)
        except ValidationError as error:
            problem = error.errors()[0]  # one at a time: dropping an item of a list moves those behind it
            _drop(kept, problem["loc"], problem.get("ctx", {}).get("max_length"))
    return JobStatus()


def _drop(value: Any, place: tuple[int | str, ...], most: int | None) -> None:
    """Take out what is at a place, or what lacks it; of a list or mapping that is too long only the rest."""
    path: list[tuple[Any, int | str]] = []
    for part in place:
        there = part in value if isinstance(value, dict) else isinstance(value, list) and part in range(len(value))
        if not there:
            break
        path.append((value, part))
        value = value[part]
    if most is not None and len(path) == len(place) and isinstance(value, list | dict):
        for key in list(range(len(value)) if isinstance(value, list) else value)[: most - 1 : -1]:
            del value[key]
    elif path:
        holder, part = path[-1]
        del holder[part]


def _parse(item: Object, name: str, namespace: str) -> tuple[UniMRGJob | None, str]:
    value = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": item.get("spec"),
    }
    try:
        job = parse_job(value)
        problems = cluster_problems(job)
    except JobError as error:
        problems = error.problems
    return (None, "; ".join(str(problem) for problem in problems)) if problems else (job, "")


def _read_ledger(value: str) -> Ledger:
    try:
        return Ledger.model_validate_json(value)
    except ValidationError:
        return Ledger()


def _stage(labels: Any) -> StageName | None:
    stages: tuple[StageName, ...] = get_args(StageName)
    return next((stage for stage in stages if stage == text_of(labels, cluster.STAGE_LABEL)), None)


def _child_state(item: Object) -> Literal["Active", "Succeeded", "Failed"]:
    """A PyTorchJob ends as Succeeded or Failed, a batch Job as Complete or Failed."""
    ends = {
        text_of(condition, "type")
        for condition in dicts_of(item, "status", "conditions")
        if text_of(condition, "status") == "True"
    }
    if "Failed" in ends:
        return "Failed"
    return "Succeeded" if ends & {"Succeeded", "Complete"} else "Active"


def _phase(value: str) -> PodPhase:
    phases: tuple[PodPhase, ...] = get_args(PodPhase)
    return next((phase for phase in phases if phase == value), "Unknown")


def _waiting(status: Any, conditions: Mapping[str, Any]) -> tuple[str, str]:
    """Return why a pod does not run yet: it has no place, or one of its containers cannot start."""
    scheduled = conditions.get("PodScheduled", {})
    if text_of(scheduled, "status") == "False":
        return text_of(scheduled, "reason") or "Unschedulable", text_of(scheduled, "message")
    statuses = [*dicts_of(status, "initContainerStatuses"), *dicts_of(status, "containerStatuses")]
    waiting = [dig(container, "state", "waiting") for container in statuses]
    reasons = [(text_of(entry, "reason"), text_of(entry, "message")) for entry in waiting if entry]
    return next((pair for pair in reasons if pair[0] not in _SAYS_NOTHING), reasons[0] if reasons else ("", ""))


def _disruption(status: Any, conditions: Mapping[str, Any]) -> str:
    target = conditions.get("DisruptionTarget", {})
    if text_of(target, "status") == "True":
        return text_of(target, "reason") or "DisruptionTarget"
    # Evicted, NodeLost, NodeShutdown, OutOfcpu, …: the word of the node about the pod, not of the program.
    return text_of(status, "reason") if text_of(status, "phase") in ("Failed", "Unknown", "Running") else ""


def _terminated(status: Any, conditions: Mapping[str, Any], created: float) -> Terminated | None:
    containers = dicts_of(status, "containerStatuses")
    ours = next((entry for entry in containers if text_of(entry, "name") == cluster.TRAINER_CONTAINER), {})
    end = dig(ours, "state", "terminated")
    if not isinstance(end, dict):
        return None
    finished = time_of(end.get("finishedAt"))
    if finished is None:  # the kubelet lost sight of the container; the pod changed when it said so
        moments = [time_of(dig(condition, "lastTransitionTime")) or 0.0 for condition in conditions.values()]
        finished = max([created, *moments])
    return Terminated(
        exit_code=int_of(end, "exitCode", 1),
        reason=text_of(end, "reason"),
        finished=finished,
        record=_record(text_of(end, "message")),
    )


def _record(message: str) -> TerminationRecord:
    """Read the one thing that a pod writes as it likes, so that no pod can stop its job."""
    try:
        return TerminationRecord.parse(message)
    except Exception:
        logger.exception("a termination message cannot be read")
        return TerminationRecord(reason="Unreadable")


def _job_uids_in(item: Object) -> set[str]:
    """Return the uids of jobs that a pod's environment names."""
    entries = (entry for container in dicts_of(item, "spec", "containers") for entry in dicts_of(container, "env"))
    return {text_of(entry, "value") for entry in entries if text_of(entry, "name") == UID_VARIABLE} - {""}


def dig(value: Any, *path: str) -> Any:
    """Return what stands at a path of nested mappings, None where it breaks off."""
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def dict_of(value: Any, *path: str) -> Mapping[str, Any]:
    """Return the mapping at a path, an empty one where there is none."""
    item = dig(value, *path)
    return item if isinstance(item, Mapping) else {}


def dicts_of(value: Any, *path: str) -> list[Mapping[str, Any]]:
    """Return the mappings of the list at a path; none where there is no list."""
    items = dig(value, *path)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def text_of(value: Any, key: str) -> str:
    """Return the text at a key, empty where there is none."""
    item = dig(value, key)
    return item if isinstance(item, str) else ""


def int_of(value: Any, key: str, default: int = 0) -> int:
    """Return the whole number at a key, also where it stands there as text (as in labels)."""
    item = dig(value, key)
    if isinstance(item, str) and item.isascii() and item.isdigit() and len(item) < 10:
        return int(item)
    return item if isinstance(item, int) and not isinstance(item, bool) else default


def time_of(value: Any) -> float | None:
    """Return the Unix time in seconds of a time in ISO 8601, None where it is none."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
