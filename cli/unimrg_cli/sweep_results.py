"""The result of a sweep in one table: state, losses and scores of each job, and means over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from unimrg_api.sweep import SEED
from unimrg_cli.cluster_view import ClusterJob
from unimrg_cli.sweep_file import PlannedJob, Sweep
from unimrg_cli.view import View
from unimrg_trainer.evaluation.over_seeds import Mean, mean_over_seeds

Format = Literal["table", "json", "csv", "markdown"]
FINISHED = "Completed"


class JobResult(View):
    """What is known of one job."""

    name: str
    labels: dict[str, str]
    """The label of its value, by the path of each field that varies."""
    uri: str
    """Prefix of its run."""
    state: str
    """NotStarted, Running, Stopped, Completed or Failed; on a cluster also any other phase."""
    losses: dict[str, float] = Field(default={})
    """Loss of the held-out rows after training, by objective."""
    scores: dict[str, float] = Field(default={})
    """Results of the evaluation, by name."""


class MeanResult(View):
    """The completed jobs that differ in their seeds only."""

    labels: dict[str, str]
    losses: dict[str, Mean] = Field(default={})
    scores: dict[str, Mean] = Field(default={})


class SweepResult(View):
    """A sweep's table."""

    sweep: str
    jobs: list[JobResult]
    means: list[MeanResult] = Field(default=[])
    """Empty where no seed varies."""

    @property
    def finished(self) -> bool:
        """Whether every job is complete."""
        return all(job.state == FINISHED for job in self.jobs)


def job_result(job: PlannedJob, state: str, results: Mapping[str, Any]) -> JobResult:
    """Return the result of a job from its results/summary.json; what that does not hold is left out."""
    losses = {
        name: float(loss["after"])
        for name, loss in (results.get("held_out") or {}).items()
        if isinstance(loss, dict) and isinstance(loss.get("after"), int | float)
    }
    scores: dict[str, float] = {}
    with suppress(ImportError, ValueError):  # on a machine that only looks, or of another version
        from unimrg_trainer.evaluation.summary import Summary

        scores = Summary.model_validate(results).headline() if results else {}
    return JobResult(name=job.name, labels=dict(job.labels), uri=job.uri, state=state, losses=losses, scores=scores)


def cluster_result(job: PlannedJob, found: ClusterJob | None, results: Mapping[str, Any]) -> JobResult:
    """Return the result of a job on a cluster, scores from its status; `found` None: it is not there."""
    status = found.status if found is not None else None
    phase = "NotStarted" if found is None else "Pending" if status is None else status.phase
    result = job_result(job, FINISHED if phase == "Succeeded" else phase, results)
    scores = {score.name: float(score.value) for score in status.benchmarks} if status is not None else {}
    return result.model_copy(update={"scores": result.scores or scores})


def sweep_result(sweep: Sweep, jobs: list[JobResult]) -> SweepResult:
    """Return the table of all jobs, with means over seeds where these vary."""
    groups: dict[tuple[str, ...], list[JobResult]] = {}
    for job in jobs if SEED in sweep.axes else ():
        if job.state == FINISHED:
            groups.setdefault(tuple(job.labels[path] for path in sweep.compared), []).append(job)
    means = [
        MeanResult(
            labels=dict(zip(sweep.compared, labels, strict=True)),
            losses=_means([job.losses for job in group]),
            scores=_means([job.scores for job in group]),
        )
        for labels, group in groups.items()
    ]
    return SweepResult(sweep=sweep.name, jobs=jobs, means=means)


def _means(figures: list[dict[str, float]]) -> dict[str, Mean]:
    found = {}
    for name in _names(figures):
        values = [one[name] for one in figures if name in one]
        found[name] = mean_over_seeds(values)
    return found


def _names(figures: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for one in figures for name in one))


def as_rows(result: SweepResult) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Return (columns, a row for each job, a row for each mean): name, state, losses and scores as text."""
    losses, scores = (_names(getattr(job, kind) for job in result.jobs) for kind in ("losses", "scores"))
    columns = ["job", "state", *(f"loss/{name}" for name in losses), *scores]
    jobs = [
        [job.name, job.state, *(_number(job.losses.get(name)) for name in losses),
         *(_number(job.scores.get(name)) for name in scores)]
        for job in result.jobs
    ]  # fmt: skip
    means = [
        [" ".join(mean.labels.values()) or "all", "mean", *(_mean(name, mean.losses.get(name)) for name in losses),
         *(_mean(name, mean.scores.get(name)) for name in scores)]
        for mean in result.means
    ]  # fmt: skip
    return columns, jobs, means


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _mean(name: str, value: Mean | None) -> str:
    if value is None:
        return ""
    counted = name.endswith("/n")  # how much was judged, which is no result
    spread = "" if counted or value.deviation is None else f" ± {value.deviation:.2g} ({value.jobs})"
    return _number(value.mean) + spread


def as_text(result: SweepResult, form: Format) -> str:
    """Return the table as JSON, CSV or Markdown; CSV, for programs, without means, which are no numbers."""
    if form == "json":
        return result.model_dump_json(by_alias=True, exclude_none=True, indent=2)
    columns, jobs, means = as_rows(result)
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *jobs])
        return text.getvalue().rstrip("\n")
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *jobs, *means))
