"""What pods say of their work, in the status: progress, the newest commit, the run in MLflow, scores.

A pod can only lie about itself, and may say anything: what does not fit is cut or left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unimrg_api.commits import step_folder, step_in
from unimrg_api.job import UniMRGJob
from unimrg_api.redaction import clean
from unimrg_api.stages import StageName
from unimrg_api.status import BenchmarkStatus, CheckpointStatus, JobStatus, LossStatus, MlflowStatus, ProgressStatus
from unimrg_api.termination import TerminationRecord
from unimrg_api.texts import duration
from unimrg_operator.core.observation import Observation, Pod, Report
from unimrg_operator.core.seen import children_of, pods_of
from unimrg_operator.core.stages import ORDER
from unimrg_operator.core.texts import count, number, time_text

_LOSSES_LIMIT, _BENCHMARKS_LIMIT, _NAME_LIMIT = 16, 32, 64
_CLOCK_SKEW_SECONDS = 60


@dataclass(frozen=True)
class Heard:
    """The parts of a status that come from pods."""

    progress: ProgressStatus | None
    checkpoint: CheckpointStatus | None
    benchmarks: list[BenchmarkStatus]
    mlflow: MlflowStatus | None

    @property
    def commit_step(self) -> int:
        """The newest commit; 0 if there is none."""
        return self.checkpoint.step if self.checkpoint is not None else 0


def hear(status: JobStatus, observation: Observation, job: UniMRGJob) -> Heard:
    """Return what is known of the job's work, given what was known and what pods say now."""
    report = _own_report(observation)
    records = _records(observation)
    live = report.progress if report is not None else None
    steps = [_step_of(record) for _, _, record in records] + [live.checkpoint_step or 0 if live is not None else 0]
    runs = [(record.mlflow_run_id, record.mlflow_url) for _, _, record in records]
    if live is not None:
        runs.append((live.mlflow_run_id, live.mlflow_url))
    return Heard(
        progress=_progress(status, observation, report, job.spec.resolved_objectives()),
        checkpoint=_checkpoint(status.checkpoint, steps, job),
        benchmarks=_benchmarks(records) or status.benchmarks,
        mlflow=_mlflow(status.mlflow, runs),
    )


def _own_report(observation: Observation) -> Report | None:
    """Return the report if it is from a pod of this job."""
    report = observation.report
    if report is None or all(pod.uid != report.pod_uid for pod in observation.pods):
        return None
    return report


def _records(observation: Observation) -> list[tuple[StageName, Pod, TerminationRecord]]:
    """Return the last words of all pods, oldest attempts first, with their stages."""
    return [
        (stage, pod, pod.terminated.record)
        for stage in ORDER
        for child in reversed(children_of(observation, stage))
        for pod in pods_of(observation, child.name)
        if pod.terminated is not None
    ]


def _step_of(record: TerminationRecord) -> int:
    return step_in(record.checkpoint or "") or 0


def _checkpoint(old: CheckpointStatus | None, steps: list[int], job: UniMRGJob) -> CheckpointStatus | None:
    """Return the newest commit; a step that the job never comes to is none, whoever said so."""
    last = job.spec.training.resolved_stop_step()
    known = old if old is not None and old.step <= last else None
    step = max((step for step in steps if 0 < step <= last), default=0)
    if step <= (known.step if known is not None else 0):
        return known
    return CheckpointStatus(uri=f"{job.spec.checkpoint.uri.rstrip('/')}/{step_folder(step)}"[:2048], step=step)


def _mlflow(old: MlflowStatus | None, runs: list[tuple[str | None, str | None]]) -> MlflowStatus | None:
    """Return the run that was named last; a name that is too long is none."""
    known = old or MlflowStatus()
    for run_id, url in runs:
        fields = {"run_id": (run_id, 64), "url": (url, 2048)}
        update = {key: clean(text) for key, (text, limit) in fields.items() if text and len(clean(text)) <= limit}
        known = known.model_copy(update=update)
    return known if known != MlflowStatus() else None


def _benchmarks(records: list[tuple[StageName, Pod, TerminationRecord]]) -> list[BenchmarkStatus]:
    scores: dict[str, float] = {}
    for stage, _, record in records:
        if stage == "evaluate" and record.scores:
            scores = record.scores
    values = {clean(name, _NAME_LIMIT): repr(float(value)) for name, value in scores.items()}
    return [BenchmarkStatus(name=name, value=value) for name, value in sorted(values.items())[:_BENCHMARKS_LIMIT]]


def _progress(
    status: JobStatus, observation: Observation, report: Report | None, weights: Mapping[str, float]
) -> ProgressStatus | None:
    """Return the report of a pod that runs, else the training's last word, else what was known."""
    old = status.progress
    reporting = next((pod for pod in observation.pods if report is not None and pod.uid == report.pod_uid), None)
    if report is not None and reporting is not None and reporting.terminated is None:
        stage = _stage_of(reporting, observation)
        if stage is not None and report.progress.total_steps > 0:
            return _live(old, stage, report, weights)
    newest = children_of(observation, "train")[:1]
    ended = [pod for child in newest for pod in pods_of(observation, child.name) if pod.terminated is not None]
    words = [(pod.terminated.record, pod.terminated.finished) for pod in ended if pod.terminated is not None]
    told = [
        (record, finished) for record, finished in words if (record.total_steps or 0) > 0 and record.step is not None
    ]
    if not told:
        return old
    record, finished = max(told, key=lambda word: word[0].step or 0)
    return _shown(old, "train", record.step or 0, record.total_steps or 0, finished)


def _stage_of(pod: Pod, observation: Observation) -> StageName | None:
    return next((child.stage for child in observation.children if child.name == pod.child), None)


def _live(old: ProgressStatus | None, stage: StageName, report: Report, weights: Mapping[str, float]) -> ProgressStatus:
    progress = report.progress
    told = 0 < progress.updated <= report.received + _CLOCK_SKEW_SECONDS
    shown = _shown(old, stage, progress.step, progress.total_steps, progress.updated if told else report.received)
    values = {clean(name, _NAME_LIMIT): number(value) for name, value in progress.losses.items()}
    losses = [LossStatus(name=name, value=value) for name, value in list(values.items())[:_LOSSES_LIMIT]]
    if losses:
        shown = shown.model_copy(update={"losses": losses, "loss": number(_total(progress.losses, weights))})
    if old is not None and _what_counts(old) == _what_counts(shown):
        return old  # nothing new was done, so when it was done stays, too
    eta = None if progress.eta_seconds is None else count(progress.eta_seconds)
    rate = progress.samples_per_second
    return shown.model_copy(
        update={
            "eta_seconds": eta,
            "eta": "" if eta is None else duration(eta),
            "samples_per_second": None if rate is None else number(rate),
        }
    )


def _total(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the loss that is trained: the weighted losses over the number of objectives (seams.md §7)."""
    factors = {name.lower(): weight for name, weight in weights.items() if weight}
    return sum(factors.get(name.lower(), 1.0) * value for name, value in losses.items()) / len(losses)


def _what_counts(progress: ProgressStatus) -> tuple[object, ...]:
    return progress.stage, progress.step, progress.total_steps, progress.loss, progress.losses


def _shown(old: ProgressStatus | None, stage: StageName, step: int, total: int, updated: float) -> ProgressStatus:
    """Return progress with the losses heard last: other stages than the training have none."""
    step, total = count(step), count(total)
    return ProgressStatus(
        stage=stage,
        step=step,
        total_steps=total,
        steps=f"{step}/{total}",
        percent=min(100, 100 * step // total),
        loss=old.loss if old is not None else "",
        losses=old.losses if old is not None else [],
        updated_time=time_text(updated),
    )
