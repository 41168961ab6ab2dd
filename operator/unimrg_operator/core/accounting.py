"""Accounts for the time of attempts: how long all pods ran, what of it was lost, how long pods waited for the others.

Whole attempts are in the counters of their stage. Of one that runs only the beginning is in the status, so that nothing
is written just because time passes.
"""

from __future__ import annotations

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, PodSize
from unimrg_api.status import CheckpointStatus, StageStatus, UsageStatus
from unimrg_operator.core.lookup import is_alive
from unimrg_operator.core.observation import Pod
from unimrg_operator.core.texts import format_time, parse_time


def begin(stage: StageStatus, pods: list[Pod], now: float) -> StageStatus:
    """Return a stage all of whose pods run: since when they all do, and how long some had held nodes before."""
    if stage.running_time is not None:
        return stage
    starts = [pod.started for pod in pods if pod.started is not None]
    since = min(now, max(starts)) if len(starts) == len(pods) else now
    return _with_idle_time(stage, pods, since).model_copy(update={"running_time": format_time(since)})


def settle(
    stage: StageStatus, pods: list[Pod], job: UniMRGJob, now: float, *, lost_since: float | None = None
) -> StageStatus:
    """Return a stage whose newest attempt ended or was suspended, its time added to the counters.

    `lost_since` is the time of the newest checkpoint (0: there is none) if the attempt failed; None: nothing was lost.
    """
    if len(pods) == STAGES[stage.name].pods(job) and all(pod.started is not None for pod in pods):
        stage = begin(stage, pods, now)
    if stage.running_time is None:
        return _with_idle_time(stage, pods, now)
    ends = [pod.terminated.finished for pod in pods if pod.terminated is not None]
    over = bool(ends) and not any(map(is_alive, pods))
    since, until = parse_time(stage.running_time), min(now, max(ends)) if over else now
    counters = stage.restart_counters
    lost = 0.0 if lost_since is None else until - max(since, lost_since)
    update = {
        "running_seconds": counters.running_seconds + _seconds(until - since),
        "lost_seconds": counters.lost_seconds + _seconds(lost),
    }
    return stage.model_copy(update={"running_time": None, "restart_counters": counters.model_copy(update=update)})


def running_seconds(stage: StageStatus, now: float) -> float:
    """Return for how long attempts of a stage ran so far, the newest included."""
    current = 0.0 if stage.running_time is None else max(0.0, now - parse_time(stage.running_time))
    return stage.restart_counters.running_seconds + current


def usage(stages: list[StageStatus], job: UniMRGJob, checkpoint: CheckpointStatus | None) -> UsageStatus | None:
    """Return what the job's GPUs did; None for a job without any."""
    if not job.spec.trainer.gpus_per_node:
        return None
    useful = lost = idle = 0
    for stage in stages:
        definition, counters = STAGES[stage.name], stage.restart_counters
        if definition.pod_size(job) is not PodSize.GPU:
            continue
        saved = 0
        if definition.trains and stage.running_time is not None and checkpoint is not None:
            saved = _seconds(parse_time(checkpoint.time) - parse_time(stage.running_time))
        useful += definition.pods(job) * (counters.running_seconds - counters.lost_seconds + saved)
        lost += definition.pods(job) * counters.lost_seconds
        idle += counters.idle_pod_seconds
    gpus = job.spec.trainer.gpus_per_node
    return UsageStatus(gpu_seconds=gpus * useful, lost_gpu_seconds=gpus * lost, idle_gpu_seconds=gpus * idle)


def _with_idle_time(stage: StageStatus, pods: list[Pod], until: float) -> StageStatus:
    """Add the time for which pods had held their nodes until then."""
    idle = sum(_seconds(until - (pod.scheduled or pod.created)) for pod in pods if pod.node is not None)
    counters = stage.restart_counters
    update = {"idle_pod_seconds": counters.idle_pod_seconds + idle}
    return stage.model_copy(update={"restart_counters": counters.model_copy(update=update)})


def _seconds(length: float) -> int:
    return max(0, round(length))
