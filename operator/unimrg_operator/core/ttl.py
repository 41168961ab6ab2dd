"""Deletes the children of a finished job after `ttlSecondsAfterFinished`; the job itself, and its status, stay."""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.status import JobStatus
from unimrg_operator.core.decision import DeleteChild, Plan
from unimrg_operator.core.observation import Observation
from unimrg_operator.core.texts import parse_time


def plan_ttl(status: JobStatus, observation: Observation, job: UniMRGJob, now: float) -> Plan:
    """Return the deletion of every child of a job that is Succeeded or Failed, once it is due."""
    children = [child for child in observation.children if not child.deleting]
    if not children:
        return Plan()
    wait = parse_time(status.completion_time) + job.spec.run_policy.ttl_seconds_after_finished - now
    if wait > 0:
        return Plan(requeue_after=wait)
    return Plan(tuple(DeleteChild(child.stage, child.name, child.uid) for child in children))
