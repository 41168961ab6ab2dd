"""Which failed children are kept for their logs: the last two of each stage, or all for `keepFailedPodSeconds`."""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import JobStatus
from unimrg_operator.core.decision import DeleteChild, Plan
from unimrg_operator.core.lookup import children_of, pods_of
from unimrg_operator.core.observation import Child, Observation

KEPT_FAILED_CHILDREN = 2
"""Failed children of each stage that are kept where the job does not say for how long."""


def plan_deletion_of_failed_children(
    observed_status: JobStatus, observation: Observation, job: UniMRGJob, now: float
) -> Plan:
    """Return the deletion of failed children that are kept no longer, never of a stage's newest attempt's."""
    plan, keep = Plan(), job.spec.run_policy.keep_failed_pod_seconds
    for name in STAGES:
        newest = observed_status.stage(name).attempt
        failed = [child for child in children_of(observation, name) if child.state == "Failed" and not child.deleting]
        for index, child in enumerate(failed):
            if child.attempt >= newest:
                continue
            wait = 0.0 if keep is None else max(0.0, _ended(observation, child) + keep - now)
            if wait:
                plan += Plan(requeue_after=wait)
            elif keep is not None or index >= KEPT_FAILED_CHILDREN:
                plan += Plan((DeleteChild(child.stage, child.name, child.uid),))
    return plan


def _ended(observation: Observation, child: Child) -> float:
    """Return when the last pod of a child ended that has."""
    pods = pods_of(observation, child.name)
    return max((pod.terminated.finished for pod in pods if pod.terminated is not None), default=child.created)
