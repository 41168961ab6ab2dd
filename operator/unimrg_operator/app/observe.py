"""From cached objects to the values of an Observation; the state of a child comes from its backend."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationError

from unimrg_api import cluster
from unimrg_api.errors import JobError
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.locality import cluster_problems
from unimrg_api.stages import STAGES, StageName
from unimrg_api.status import JobStatus, RestartCounters, StageStatus
from unimrg_api.termination import TerminationRecord
from unimrg_operator.backends.objects import conditions_of, dicts_of, dig, int_of, owner_of, text_of, time_of
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.observation import Child, Node, ObservedJob, Pod, Terminated
from unimrg_operator.kube.client import Object

logger = logging.getLogger(__name__)

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

UID_VARIABLE = "UNIMRG_UID"
"""Environment variable of every pod that holds the uid of its UniMRGJob."""

_SAYS_NOTHING = ("", "ContainerCreating", "PodInitializing")
"""Waiting reasons that every pod has for a while."""


def observe_job(item: Object) -> ObservedJob:
    """Read a UniMRGJob object: its spec if it parses and fits a cluster, its status as far as it does."""
    metadata = dig(item, "metadata")
    name, namespace = text_of(metadata, "name"), text_of(metadata, "namespace")
    job, parse_error = _parse(item, name, namespace)
    return ObservedJob(
        name=name,
        namespace=namespace,
        uid=text_of(metadata, "uid"),
        generation=int_of(metadata, "generation"),
        parsed=job,
        status=read_status(item.get("status")),
        parse_error=parse_error,
        deleting=bool(dig(metadata, "deletionTimestamp")),
    )


def observe_child(item: Object, backends: SiteBackends) -> Child | None:
    """Read a child; None for what has no stage or number and hence was not made by us."""
    labels = dig(item, "metadata", "labels")
    stage = stage_of(item)
    attempt = int_of(labels, cluster.ATTEMPT_LABEL)
    if stage is None or attempt < 1:
        return None
    metadata = item["metadata"]
    annotations = dig(metadata, "annotations")
    observed = backends.of(stage).observe(item)
    return Child(
        name=text_of(metadata, "name"),
        uid=text_of(metadata, "uid"),
        stage=stage,
        attempt=attempt,
        created=time_of(dig(metadata, "creationTimestamp")) or 0.0,
        state=observed.state,
        resumed_at=observed.resumed_at,
        restart_counters=_read_counters(text_of(annotations, cluster.RESTART_COUNTERS_ANNOTATION)),
        deleting=bool(dig(metadata, "deletionTimestamp")),
    )


def observe_pod(item: Object, owners: Mapping[str, str] = {}) -> Pod:
    """Read a pod; `owners` are the names of the children by the uids of their pods' controllers.

    Where its controller is gone or unknown, its labels say which child it is of.
    """
    metadata, spec, status = dig(item, "metadata"), dig(item, "spec"), dig(item, "status")
    conditions = conditions_of(item)
    created = time_of(dig(metadata, "creationTimestamp")) or 0.0
    grace = int_of(spec, "terminationGracePeriodSeconds", 30)
    deletion = time_of(dig(metadata, "deletionTimestamp"))
    if deletion is not None:
        grace = int_of(metadata, "deletionGracePeriodSeconds", grace)
    reason, message = _waiting(status, conditions)
    scheduled = conditions.get("PodScheduled", {})
    return Pod(
        name=text_of(metadata, "name"),
        uid=text_of(metadata, "uid"),
        child=owners.get(text_of(owner_of(item), "uid")) or _child_by_labels(item),
        node_rank=cluster.node_rank(item),
        phase=_phase(text_of(status, "phase")),
        created=created,
        node=text_of(spec, "nodeName") or None,
        scheduled=time_of(dig(scheduled, "lastTransitionTime")) if text_of(scheduled, "status") == "True" else None,
        started=_started(status),
        deleting_since=None if deletion is None else deletion - grace,
        grace_seconds=grace,
        memory_limit=text_of(dig(_trainer_in(dicts_of(spec, "containers")), "resources", "limits"), "memory"),
        waiting_reason=reason,
        waiting_message=message,
        disruption=_disruption(status, conditions),
        terminated=_terminated(status, conditions, created),
    )


def observe_node(item: Object) -> Node:
    """Read a node: whether its kubelet reports that it is ready, and since when that is so."""
    ready = conditions_of(item).get("Ready", {})
    status = text_of(ready, "status")
    return Node(
        name=text_of(dig(item, "metadata"), "name"),
        ready="True" if status == "True" else "False" if status == "False" else "Unknown",
        since=time_of(dig(ready, "lastTransitionTime")) or 0.0,
    )


def presumed_child(stage: StageStatus) -> Child:
    """Return the child that a job's status tells of, where nobody can be asked whether it is still there."""
    created = time_of(stage.attempt_time) or 0.0
    return Child(
        stage.child or "", stage.child_uid or "", stage.name, stage.attempt, created, "Active", stage.restart_counters
    )


def is_pod_of(item: Object, job_uid: str, owner_uids: Collection[str]) -> bool:
    """Whether a pod belongs to this job and not to an earlier one of the same name.

    Its controller may be gone already, or not be observed yet; then the pod's environment tells.
    """
    if text_of(owner_of(item), "uid") in owner_uids:
        return True
    return job_uid in _job_uids_in(item)


def is_pod_of_namesake(item: Object, job_uid: str, owner_uids: Collection[str]) -> bool:
    """Whether a pod, which has this job's label, belongs to another job: to an earlier one of the same name."""
    return bool(owner_of(item)) and bool(_job_uids_in(item)) and not is_pod_of(item, job_uid, owner_uids)


def read_status(value: Any) -> JobStatus:
    """Return the status that is stored, without the fields that cannot be read.

    What is left out follows from the children again: each has the number of its attempt and its restart counters.
    """
    kept = dict(value) if isinstance(value, dict) else {}
    try:
        return JobStatus.model_validate(kept)
    except ValidationError as error:
        for problem in error.errors():
            kept.pop(str(problem["loc"][0]), None)
        return JobStatus.model_validate(kept)


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
    return (None, "; ".join(map(str, problems))) if problems else (job, "")


def _read_counters(value: str) -> RestartCounters:
    try:
        return RestartCounters.model_validate_json(value)
    except ValidationError:
        return RestartCounters()


def stage_of(item: Object) -> StageName | None:
    """Return the stage that a child or pod is labelled with."""
    label = text_of(dig(item, "metadata", "labels"), cluster.STAGE_LABEL)
    return next((stage for stage in STAGES if stage == label), None)


def _child_by_labels(item: Object) -> str:
    labels, stage = dig(item, "metadata", "labels"), stage_of(item)
    job, attempt = text_of(labels, cluster.JOB_LABEL), int_of(labels, cluster.ATTEMPT_LABEL)
    return cluster.child_name(job, stage, attempt) if stage is not None else ""


def _trainer_in(containers: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((entry for entry in containers if text_of(entry, "name") == cluster.TRAINER_CONTAINER), {})


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
    # Evicted, NodeLost, NodeShutdown, OutOfcpu, …: what the node says about the pod, not the program.
    return text_of(status, "reason") if text_of(status, "phase") in ("Failed", "Unknown", "Running") else ""


def _started(status: Any) -> float | None:
    state = dig(_trainer_in(dicts_of(status, "containerStatuses")), "state")
    return time_of(dig(state, "running", "startedAt") or dig(state, "terminated", "startedAt"))


def _terminated(status: Any, conditions: Mapping[str, Any], created: float) -> Terminated | None:
    end = dig(_trainer_in(dicts_of(status, "containerStatuses")), "state", "terminated")
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
