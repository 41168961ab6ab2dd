"""Gives an attempt up that holds nodes and does not start: all of its pods must run within `startTimeoutSeconds`.

The time begins when the first pod gets a node: some pods do not hold their nodes for ever while others find none. An
attempt that holds no node waits as long as it takes. So neither a full cluster nor a slow training operator costs one.
"""

from __future__ import annotations

from unimrg_api.exit_codes import Action, Budget, Rule
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES
from unimrg_api.status import StageStatus
from unimrg_operator.core.classification import Cause, Classification
from unimrg_operator.core.lookup import has_succeeded, is_alive
from unimrg_operator.core.observation import Child, Pod
from unimrg_operator.core.texts import one_line
from unimrg_operator.core.trouble.finding import some_of
from unimrg_operator.core.trouble.waiting import why_waiting

START_TIMEOUT = Rule("StartTimeout", "its pods did not all start in time", Action.RESTART, Budget.INFRA)


def start_timeout(stage: StageStatus, child: Child, pods: list[Pod], job: UniMRGJob, now: float) -> Classification:
    """Return the failure of an attempt that is too late, or when it will be."""
    holding = [pod for pod in pods if pod.node is not None and is_alive(pod)]
    if stage.running_time is not None or not holding:
        return Classification()
    first_node = min(pod.scheduled or pod.created for pod in holding)
    limit = job.spec.run_policy.start_timeout_seconds
    wait = max(first_node, child.created, child.resumed_at or 0.0) + limit - now
    if wait > 0:
        return Classification(requeue_after=wait)
    return Classification(cause=Cause(START_TIMEOUT.reason, _message(stage, child, pods, job, now), START_TIMEOUT))


def _message(stage: StageStatus, child: Child, pods: list[Pod], job: UniMRGJob, now: float) -> str:
    """Say how many pods run and on which nodes, and what the others wait for."""
    definition, limit = STAGES[stage.name], job.spec.run_policy.start_timeout_seconds
    started = sum(pod.phase == "Running" or has_succeeded(pod) for pod in pods)
    expected = definition.pods(job)
    nodes = sorted({pod.node for pod in pods if pod.node is not None})
    return one_line(
        f"{started} of {expected} pods ran after {limit} s (runPolicy.startTimeoutSeconds), "
        f"while {len(nodes)} nodes were held ({some_of(nodes)})",
        why_waiting(child, pods, definition, job, now).message,
        "" if len(pods) >= expected else f"{expected - len(pods)} pods were not created",
    )
