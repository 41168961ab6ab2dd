"""Whether an attempt has ended, which pod ended first, and what that means. An event's text is never evidence.

The order of evidence: the container that failed first (the others mostly die of it), then what the cluster says
about pods that it took away, then a pod that is missing without a trace. A child that was deleted ends the attempt
whatever its pods report. But a program that fails after the cluster has taken one of its peers away is not the cause.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.exit_codes import DISRUPTED, Action, Budget, ExitCode, Rule, Sign, rule
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import PodSize, Stage
from unimrg_api.status import StageStatus
from unimrg_operator.core.lookup import has_failed, has_succeeded, is_alive, is_on_lost_node, time_to_end
from unimrg_operator.core.observation import Child, Pod, Terminated
from unimrg_operator.core.texts import camel_case, left, line

SETTLE_SECONDS = 10
"""How long the first failure that is observed waits for others: the pod that failed first may be observed last."""

REASONS: dict[int, str] = {
    ExitCode.CONFIGURATION: "ConfigInvalid",
    ExitCode.DATA_CORRUPT: "DataCorrupt",
    ExitCode.INPUT_MISSING: "DataMissing",
    ExitCode.UNAVAILABLE: "Unavailable",
    ExitCode.PROGRAM: "ProgramFailed",
    ExitCode.STALL: "Stalled",
    ExitCode.CREDENTIALS: "CredentialsDenied",
    ExitCode.GPU_FAULT: "GpuFault",
    ExitCode.NUMERIC_GUARD: "NumericGuardExhausted",
    ExitCode.COMMUNICATION: "CommunicationFailed",
    ExitCode.INTERRUPTED: "Interrupted",
    ExitCode.INTERRUPTED_TWICE: "Interrupted",
    ExitCode.NOTHING_VERIFIES: "NoCheckpointVerifies",
    ExitCode.KILLED: "Killed",
    ExitCode.TERMINATED: "Terminated",
}
"""Reason for each exit code; a code that is not here is a program's failure."""

PROFILE_FIELDS = {PodSize.SMALL: "resources.smallPod", PodSize.CPU: "resources.cpuPod", PodSize.GPU: "resources.gpuPod"}
"""Where the site profile sets the resources of a pod."""

CHILD_LOST = Rule("the attempt's object was deleted", Action.RESTART, Budget.INFRA)

_CONSEQUENCES: set[int] = {
    ExitCode.COMMUNICATION,
    ExitCode.INTERRUPTED,
    ExitCode.INTERRUPTED_TWICE,
    ExitCode.KILLED,
    ExitCode.TERMINATED,
}
"""What pods end with because another one did: times come in whole seconds, so this tells apart what they cannot."""


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended, and the rule that goes for it."""

    reason: str
    message: str
    rule: Rule
    exit_code: int | None = None
    pod: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class Classification:
    """How an attempt stands: it goes on (neither `done` nor `cause`), has done its work, or failed."""

    done: bool = False
    cause: Cause | None = None
    wait: float | None = None
    """Seconds after which more is known even if nothing changes."""


def classify(
    stage: StageStatus, child: Child | None, pods: list[Pod], row: Stage, job: UniMRGJob, now: float
) -> Classification:
    """Classify the newest attempt of the stage `row`; its child is missing if `child` is None.

    A suspended child waits, whatever becomes of its pods; and what ended before it was resumed is no evidence.
    """
    if child is None:
        message = line(f"{stage.child or 'the child'} was deleted, and not by the operator")
        return Classification(cause=Cause("ChildLost", message, CHILD_LOST))
    if child.state == "Succeeded" or sum(map(has_succeeded, pods)) >= row.pods(job):
        return Classification(done=True)
    if child.state == "Suspended":
        return Classification()
    if child.resumed is not None:
        pods = [pod for pod in pods if not _ended_before(pod, child.resumed)]
    alive = [pod for pod in pods if is_alive(pod)]
    failed = [pod for pod in pods if has_failed(pod)]
    if failed:
        if alive and (wait := _settling(failed, stage, child, pods, now)):
            return Classification(wait=wait)
        return Classification(cause=_first_failure(failed, stage, child, pods, row, job))
    asked = [(pod, time_to_end(pod, now)) for pod in alive if pod.deleting_since is not None]
    ending = [time for _, time in asked if time]
    if ending:
        return Classification(wait=max(ending))  # its launcher commits, and then says how it ended
    lost = [pod for pod, time in asked if not time] or [pod for pod in alive if is_on_lost_node(pod)]
    if lost:
        return Classification(
            cause=_lost_pod(lost[0].name, lost[0].node, "it outlived its grace period, or its node is lost")
        )
    if set(stage.pod_uids) - {pod.uid for pod in pods}:
        return Classification(cause=_lost_pod(None, None, "a pod vanished or was replaced"))
    if child.state == "Failed" and not alive:
        return Classification(cause=_lost_pod(None, None, "no pod is left to say why"))
    return Classification()


def _ended_before(pod: Pod, moment: float) -> bool:
    """Whether a pod failed that ended, or was asked to end, before a moment."""
    if not has_failed(pod):
        return False
    asked = pod.deleting_since is not None and pod.deleting_since < moment
    return asked or (pod.terminated is not None and pod.terminated.finished < moment)


def _settling(failed: list[Pod], stage: StageStatus, child: Child, pods: list[Pod], now: float) -> float:
    """Return the seconds to wait for failures that were earlier and are not known yet.

    Not where a pod is being deleted that tells the cause: it takes its evidence with it.
    """
    first = _first_container(failed)
    if first is None or first[0].deleting_since is not None:
        return 0.0
    pod, end = first
    return 0.0 if _taken_before(pod, end.finished, stage, child, pods) else left(end.finished, SETTLE_SECONDS, now)


def _first_container(failed: list[Pod]) -> tuple[Pod, Terminated] | None:
    """Return the failing container that ended first; of those in the same second, one that may be the cause."""
    ended = [(pod, pod.terminated) for pod in failed if pod.terminated is not None and pod.terminated.exit_code != 0]

    def order(item: tuple[Pod, Terminated]) -> tuple[int, bool, int]:
        pod, end = item
        return int(end.finished), end.exit_code in _CONSEQUENCES and not _out_of_memory(end), pod.node_rank

    return min(ended, key=order, default=None)


def _taken_before(first: Pod, finished: float, stage: StageStatus, child: Child, pods: list[Pod]) -> str:
    """Return which peer of the pod that failed first had been taken away before; empty if none had.

    Not in the same second: a peer that is ended because of the failure looks so, too. For that reason a missing peer
    tells only as long as no controller has recorded the failure, or if it was replaced before.
    """
    for pod in pods:
        if pod.uid != first.uid and pod.deleting_since is not None and pod.deleting_since < finished:
            return line(f"pod {pod.name} on {pod.node or 'no node'} was asked to end before", pod.disruption)
    missing = set(stage.pod_uids) - {pod.uid for pod in pods}
    replaced = any(pod.uid not in stage.pod_uids and pod.created < finished for pod in pods)
    return "a pod had vanished before" if missing and (child.state == "Active" or replaced) else ""


def _first_failure(
    failed: list[Pod], stage: StageStatus, child: Child, pods: list[Pod], row: Stage, job: UniMRGJob
) -> Cause:
    first = _first_container(failed)
    if first is None:
        pod = next((pod for pod in failed if pod.disruption), failed[0])
        return _lost_pod(pod.name, pod.node, "it left no exit code", pod.disruption)
    pod, end = first
    if _out_of_memory(end):
        sign = Sign.OUT_OF_MEMORY
    elif pod.disruption or pod.deleting_since is not None:
        sign = Sign.DISRUPTED
    else:
        sign = Sign.NOTHING
    found = rule(end.exit_code, sign)
    if end.exit_code == ExitCode.KILLED and sign is Sign.OUT_OF_MEMORY:
        reason = "OutOfMemory"
    elif end.exit_code in (ExitCode.KILLED, ExitCode.TERMINATED) and sign is Sign.DISRUPTED:
        reason = camel_case(pod.disruption, "Disrupted")
    else:
        reason = REASONS.get(end.exit_code, "ProgramFailed")
    excused = found.action is Action.RESTART and found.budget is not Budget.FREE and sign is not Sign.OUT_OF_MEMORY
    taken = _taken_before(pod, end.finished, stage, child, pods) if excused else ""
    said = end.record.message
    if end.record.rank is not None and not said.startswith("rank "):
        said = f"rank {end.record.rank}: {said}"
    limit = _memory_limit(pod, row, job) if sign is Sign.OUT_OF_MEMORY else ""
    where = f"pod {pod.name} on {pod.node or 'no node'}"
    message = line(f"{where}: exit code {end.exit_code}, {found.meaning}{limit}", taken, said)
    if taken:
        reason, found = "PodLost", DISRUPTED
    return Cause(reason, message, found, end.exit_code, _name(pod.name), _name(pod.node))


def _memory_limit(pod: Pod, row: Stage, job: UniMRGJob) -> str:
    """Return the limit that a pod exceeded, where it is set, and what to change."""
    size = row.pod_size(job)
    smaller = ", or lower spec.training.batch.microBatchRows" if row.distributed else ""
    limit = f" beyond its limit of {pod.memory_limit}" if pod.memory_limit else ""
    return f"{limit}: raise {PROFILE_FIELDS[size]}.memory in the site profile{smaller}"


def _out_of_memory(end: Terminated) -> bool:
    """Whether memory ran out, as the kernel reports it or, where only a rank was killed, the launcher."""
    said = end.reason == "OOMKilled" or end.record.reason == "OutOfMemory"
    return end.exit_code == ExitCode.KILLED and said


def _lost_pod(pod: str | None, node: str | None, why: str, disruption: str = "") -> Cause:
    found = rule(ExitCode.KILLED, Sign.DISRUPTED)
    where = f"pod {pod} on {node or 'no node'}" if pod else "a pod is lost"
    message = line(f"{where}: {why}", disruption)
    return Cause(camel_case(disruption, "PodLost"), message, found, None, _name(pod), _name(node))


def _name(text: str | None) -> str | None:
    return text[:253] if text else None
