"""Status fields that come from pods: progress, newest checkpoint, MLflow run, benchmark scores.

Reports are untrusted: values that do not fit are cut or ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.commits import step_folder
from unimrg_api.job import UniMRGJob
from unimrg_api.redaction import clean
from unimrg_api.stages import STAGES, TRAINING, StageName
from unimrg_api.status import CheckpointStatus, JobStatus, MlflowStatus, NamedNumber, ProgressStatus, StageStatus
from unimrg_api.termination import TerminationRecord
from unimrg_api.texts import duration
from unimrg_operator.core.lookup import children_of, is_alive, pods_of
from unimrg_operator.core.observation import Observation, ProgressReport, Terminated
from unimrg_operator.core.texts import clamp_count, format_number, format_time, parse_time

_LOSSES_LIMIT, _BENCHMARKS_LIMIT, _NAME_LIMIT, _SCORES_LIMIT = 16, 32, 64, 128
_CLOCK_SKEW_SECONDS = 60


@dataclass(frozen=True)
class ReportedStatus:
    """The status fields that come from pods, except progress."""

    checkpoint: CheckpointStatus | None
    benchmarks: list[NamedNumber]
    scores: str
    mlflow: MlflowStatus | None


def merge_reports(observed_status: JobStatus, observation: Observation, job: UniMRGJob) -> ReportedStatus:
    """Return the observed status's fields, updated from what pods report now."""
    ends = _ends(observation)
    records = [end.record for end in ends]
    steps = [(end.record.checkpoint_step or 0, end.finished) for end in ends]
    runs = [(record.mlflow_run_id, record.mlflow_url) for record in records]
    report = observation.report
    if report is not None and any(pod.uid == report.pod_uid for pod in observation.pods):
        steps.append((report.progress.checkpoint_step or 0, report.received))
        runs.append((report.progress.mlflow_run_id, report.progress.mlflow_url))
    return ReportedStatus(
        checkpoint=_checkpoint(observed_status.checkpoint, steps, job),
        benchmarks=_benchmarks(records) or observed_status.benchmarks,
        scores=_scores(records) or observed_status.scores,
        mlflow=_mlflow(observed_status.mlflow, runs),
    )


def _ends(observation: Observation) -> list[Terminated]:
    """Return how all pods ended that have, oldest attempts first."""
    return [
        pod.terminated
        for stage in STAGES
        for child in reversed(children_of(observation, stage))
        for pod in pods_of(observation, child.name)
        if pod.terminated is not None
    ]


def _checkpoint(
    old: CheckpointStatus | None, steps: list[tuple[int, float]], job: UniMRGJob
) -> CheckpointStatus | None:
    """Return the newest checkpoint of steps and when each was reported; those beyond the job's stop are ignored."""
    last = job.spec.training.resolved_stop_step()
    known = old if old is not None and old.step <= last else None
    step, moment = min(((step, at) for step, at in steps if 0 < step <= last), key=_newest_first, default=(0, 0.0))
    if step <= (known.step if known is not None else 0):
        return known
    uri = f"{job.spec.checkpoint.uri.rstrip('/')}/{step_folder(step)}"[:2048]
    return CheckpointStatus(uri=uri, step=step, time=format_time(moment))


def _newest_first(report: tuple[int, float]) -> tuple[int, float]:
    step, moment = report
    return -step, moment


def _mlflow(old: MlflowStatus | None, runs: list[tuple[str | None, str | None]]) -> MlflowStatus | None:
    """Return the run that was reported last; names over the limit are ignored."""
    known = old or MlflowStatus()
    for run_id, url in runs:
        fields = {"run_id": (run_id, 64), "url": (url, 2048)}
        update = {key: clean(text) for key, (text, limit) in fields.items() if text and len(clean(text)) <= limit}
        known = known.model_copy(update=update)
    return known if known != MlflowStatus() else None


def _newest_scores(records: list[TerminationRecord]) -> dict[str, float]:
    return next((record.scores for record in reversed(records) if record.scores), {})


def _scores(records: list[TerminationRecord]) -> str:
    """Return the score that each benchmark names first, e.g. `spatial/acc 41.2, mmvp/acc_question 71.7`."""
    first: dict[str, str] = {}
    for name, value in _newest_scores(records).items():
        _, _, rest = name.partition("/")
        benchmark, _, metric = rest.partition("/")
        if metric and benchmark != "heldout":
            first.setdefault(benchmark, f"{rest} {float(value):.4g}")
    return clean(", ".join(first.values()), _SCORES_LIMIT)


def _benchmarks(records: list[TerminationRecord]) -> list[NamedNumber]:
    values = {clean(name, _NAME_LIMIT): repr(float(value)) for name, value in _newest_scores(records).items()}
    return [NamedNumber(name=name, value=value) for name, value in sorted(values.items())[:_BENCHMARKS_LIMIT]]


def merge_progress(
    old: ProgressStatus | None,
    current: StageStatus | None,
    observation: Observation,
    checkpoint: CheckpointStatus | None,
) -> ProgressStatus | None:
    """Return the current stage's own progress; once no stage that reports is left, the training's.

    It comes from the report of a running pod, else from the training's newest termination record, else from the old
    status. Another stage's steps are never shown; its losses are kept, because only training has any. Once none of its
    pods is left there is no ETA, and a training has come as far as its checkpoint at least.
    """
    reports = current is not None and STAGES[current.name].reports_progress
    name = current.name if current is not None and reports else TRAINING
    report = observation.report
    pods = {pod.uid: pod for child in children_of(observation, name) for pod in pods_of(observation, child.name)}
    pod = pods.get(report.pod_uid) if report is not None else None
    if report is not None and pod is not None and pod.terminated is None and report.progress.total_steps > 0:
        return _from_report(old, name, report)
    shown = _from_records(old, name, observation) if STAGES[name].trains else None
    shown = shown or old
    if shown is None or shown.stage == name:
        at_rest = not any(is_alive(pod) for pod in pods.values())
        return _at_rest(shown, checkpoint) if shown is not None and at_rest else shown
    return ProgressStatus(stage=name, loss=shown.loss, losses=shown.losses) if shown.losses else None


def _at_rest(shown: ProgressStatus, checkpoint: CheckpointStatus | None) -> ProgressStatus:
    """Return the progress of a stage of which nothing runs."""
    shown = shown.model_copy(update={"eta": "", "eta_seconds": None, "rows_per_second": None})
    if checkpoint is None or not STAGES[shown.stage].trains or not shown.step < checkpoint.step <= shown.total_steps:
        return shown
    return _progress(shown, shown.stage, checkpoint.step, shown.total_steps, parse_time(checkpoint.time))


def _from_records(old: ProgressStatus | None, name: StageName, observation: Observation) -> ProgressStatus | None:
    newest = children_of(observation, name)[:1]
    ends = [pod.terminated for child in newest for pod in pods_of(observation, child.name)]
    records = [
        (end.record.step, end.record.total_steps, end.finished)
        for end in ends
        if end is not None and end.record.step is not None and (end.record.total_steps or 0) > 0
    ]
    if not records:
        return None
    step, total, finished = max(records, key=lambda record: record[0])
    return _progress(old, name, step, total or 0, finished)


def _from_report(old: ProgressStatus | None, stage: StageName, report: ProgressReport) -> ProgressStatus:
    progress = report.progress
    credible = 0 < progress.updated <= report.received + _CLOCK_SKEW_SECONDS
    updated = progress.updated if credible else report.received
    new = _progress(old, stage, progress.step, progress.total_steps, updated)
    values = {clean(name, _NAME_LIMIT): format_number(value) for name, value in progress.losses.items()}
    losses = [NamedNumber(name=name, value=value) for name, value in list(values.items())[:_LOSSES_LIMIT]]
    if losses:
        loss = "" if progress.loss is None else format_number(progress.loss)
        new = new.model_copy(update={"losses": losses, "loss": loss})
    if old is not None and _advance_key(old) == _advance_key(new):
        return old  # no new step: keep updated_time, so that a stall shows
    update: dict[str, object] = {}
    if progress.eta_seconds is not None:
        eta = clamp_count(progress.eta_seconds)
        update |= {"eta_seconds": eta, "eta": duration(eta)}
    if progress.rows_per_second is not None:
        update["rows_per_second"] = format_number(progress.rows_per_second)
    return new.model_copy(update=update)


def _advance_key(progress: ProgressStatus) -> tuple[object, ...]:
    return progress.stage, progress.step, progress.total_steps, progress.loss, progress.losses


def _progress(old: ProgressStatus | None, stage: StageName, step: int, total: int, updated: float) -> ProgressStatus:
    """Return a stage's progress with the losses that were reported last: only training has losses."""
    step, total = clamp_count(step), clamp_count(total)
    return ProgressStatus(
        stage=stage,
        step=step,
        total_steps=total,
        steps=f"{step}/{total}",
        percent=min(100, 100 * step // total),
        loss=old.loss if old is not None else "",
        losses=old.losses if old is not None else [],
        updated_time=format_time(updated),
    )
