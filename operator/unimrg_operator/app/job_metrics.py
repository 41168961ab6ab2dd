"""What a written status adds to the metrics about jobs: it is counted by comparing it with the one before."""

from __future__ import annotations

from unimrg_api.status import JobStatus
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.core.observation import ObservedJob
from unimrg_operator.core.stages import is_job_terminal
from unimrg_operator.core.texts import parse_time

_USAGE = {"useful": "gpu_seconds", "lost": "lost_gpu_seconds", "idle": "idle_gpu_seconds"}


def count_changes(metrics: Metrics, job: ObservedJob, after: JobStatus, now: float) -> None:
    """Count what happened to a job between its observed status and `after`, which was just written."""
    before, labels = job.status, _labels(job)
    for stage in after.stages:
        earlier = before.stage(stage.name)
        end = stage.attempt_end
        if end is not None and end.action == "Restart" and end != earlier.attempt_end:
            metrics.restarts.labels(end.budget).inc()
        if stage.state == "Running" and earlier.state == "Starting":
            metrics.start_seconds.labels(*labels).observe(max(0.0, now - parse_time(stage.attempt_time)))
    waited, admitted = _condition(before, "Admitted"), _condition(after, "Admitted")
    if waited[0] in ("False", "Unknown") and admitted[0] == "True":
        metrics.queue_seconds.labels(*labels).observe(max(0.0, now - waited[1]))
    if is_job_terminal(after) and not is_job_terminal(before):
        seconds = parse_time(after.completion_time) - parse_time(after.start_time)
        metrics.duration_seconds.labels(*labels, after.phase).observe(max(0.0, seconds))
    for state, field in _USAGE.items():
        metrics.gpu_seconds.labels(*labels, state).inc(max(0, _usage(after, field) - _usage(before, field)))


def _labels(job: ObservedJob) -> tuple[str, str, str]:
    """Return namespace, model and method; few values each, whatever users write into their jobs."""
    if job.parsed is None:
        return job.namespace, "", ""
    model = job.parsed.spec.model
    return job.namespace, model.family()[0] if model.built_in is not None else "custom", job.parsed.spec.method


def _condition(status: JobStatus, name: str) -> tuple[str, float]:
    """Return the value of a condition and since when it has it; empty if the job has none of that type."""
    found = next((item for item in status.conditions if item.type == name), None)
    return ("", 0.0) if found is None else (found.status, parse_time(found.last_transition_time))


def _usage(status: JobStatus, field: str) -> int:
    return int(getattr(getattr(status, "usage", None), field, 0))
