"""Why an attempt's pods do not run: which pods wait, for what, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import Stage
from unimrg_operator.core.lookup import is_alive
from unimrg_operator.core.observation import Child, Pod
from unimrg_operator.core.texts import one_line, remaining
from unimrg_operator.core.trouble.containers import container_trouble
from unimrg_operator.core.trouble.finding import Finding, Trouble, shorten, some_of
from unimrg_operator.core.trouble.images import pull_trouble
from unimrg_operator.core.trouble.refusals import refused_pods
from unimrg_operator.core.trouble.scheduling import scheduling_trouble

NO_POD_SECONDS = 20
"""A child without any pod for this long is reported, even if no event says why."""


@dataclass(frozen=True)
class Waiting:
    """What an attempt waits for. `reason` is one of `Trouble`, or PodsPending where nothing is known to be wrong."""

    reason: str = "PodsPending"
    message: str = ""
    requeue_after: float | None = None
    """Seconds until that can change without any event."""


def why_waiting(child: Child | None, pods: list[Pod], definition: Stage, job: UniMRGJob, now: float) -> Waiting:
    """Return what the attempt of a child waits for; `pods` are its pods."""
    waiting = [pod for pod in pods if is_alive(pod) and pod.phase != "Running"]
    excluded = child.restart_counters.excluded_nodes if child is not None else []
    found = [(pod, finding) for pod in waiting if (finding := _pod_trouble(pod, definition, job, excluded))]
    if found:
        finding = found[0][1]
        same = [pod.name for pod, other in found if other.reason is finding.reason]
        return Waiting(finding.reason, one_line(f"{_wait(same)}: {finding.message}"))
    if child is None:
        return Waiting()
    if refused := refused_pods(child.warnings, child.name, definition, job):
        return Waiting(refused.reason, one_line(refused.message))
    if not pods and child.state == "Active":
        wait = remaining(child.created, NO_POD_SECONDS, now)
        return Waiting(requeue_after=wait) if wait else Waiting(_SILENT.reason, f"{child.name}: {_SILENT.message}")
    return Waiting(message=_unexplained(waiting))


def places_held(pods: list[Pod], job: UniMRGJob) -> str:
    """Return which pods hold their places while others of the attempt wait; empty if none does."""
    names = [pod.name for pod in pods if is_alive(pod) and pod.phase == "Running"]
    if not names:
        return ""
    hold = "holds its place" if len(names) == 1 else "hold their places"
    return f"{some_of(names)} {hold} for {job.spec.run_policy.start_timeout_seconds} s at most"


_SILENT = Finding(
    Trouble.BACKEND_UNAVAILABLE,
    f"no pod was made within {NO_POD_SECONDS} s, and no event says why",
    "check that the controller of its kind runs (Training Operator, JobSet), or see kubectl describe",
)


def _pod_trouble(pod: Pod, definition: Stage, job: UniMRGJob, excluded: list[str]) -> Finding | None:
    details = " ".join([pod.waiting_message, *pod.warnings])  # older kubelets give the cause in events only
    return (
        pull_trouble(pod.waiting_reason, details, pod.node, job)
        or scheduling_trouble(pod.waiting_reason, pod.waiting_message, definition, job, excluded)
        or container_trouble(pod.waiting_reason, pod.waiting_message, pod.warnings, job)
    )


def _unexplained(waiting: list[Pod]) -> str:
    """Return what is said about pods whose waiting may be nothing but a start."""
    for pod in waiting:
        texts = [pod.waiting_message, *pod.warnings]
        if pod.waiting_reason or any(texts):
            detail = next((f": {shorten(text, 150)}" for text in texts if text), "")
            return f"{_wait([pod.name])}: {pod.waiting_reason or pod.phase}{detail}"
    return ""


def _wait(names: list[str]) -> str:
    return f"pod {names[0]} waits" if len(names) == 1 else f"pods {some_of(names)} wait"
