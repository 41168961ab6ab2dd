"""Describes a job on a cluster from its object: the status that the operator wrote, as text."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.introspection import format_location
from unimrg_api.progress import Progress
from unimrg_api.redaction import clean
from unimrg_api.status import AttemptEnd, Condition, JobStatus, ProgressStatus, RestartCounters, StageStatus

NOT_TAKEN_UP = "no operator has set its status yet"
AT_WORK = ("Preparing", "Running", "Evaluating")
"""Phases in which the last report of progress is about what runs now."""


class ClusterJob(BaseModel):
    """A UniMRGJob as its cluster has it."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    name: str
    namespace: str
    uid: str
    deleting: bool = False
    """Whether its deletion has begun."""
    checkpoint_uri: str = ""
    """Prefix of the run: `spec.checkpoint.uri`."""
    suspend: bool = False
    """Whether it is to be stopped: `spec.suspend`."""
    spec: dict[str, Any] = Field(default={}, exclude=True)
    """All of its spec, for those who need more of it; no part of what is printed."""
    status: JobStatus | None = None
    """None: no operator has written one yet."""


def read_job(value: dict[str, Any]) -> ClusterJob:
    """Return the job that an API server's object describes. Raises UserError for a status of a newer version."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    try:
        return ClusterJob.model_validate(
            {
                "name": metadata.get("name"),
                "namespace": metadata.get("namespace"),
                "uid": metadata.get("uid"),
                "deleting": "deletionTimestamp" in metadata,
                "checkpointUri": spec.get("checkpoint", {}).get("uri", ""),
                "suspend": spec.get("suspend") is True,
                "spec": spec,
                "status": value.get("status") or None,
            }
        )
    except ValidationError as error:
        place = format_location(error.errors()[0]["loc"])
        raise UserError(
            f"the object has a {place} that this version of unimrg cannot read",
            remedy="install the version that the operator has, or look with `kubectl get unimrgjob NAME -o yaml`",
            exit_code=ExitCode.UNAVAILABLE,
        ) from None


def headline(job: ClusterJob) -> str:
    """Return where a job stands, in one line."""
    if job.status is None:
        return NOT_TAKEN_UP
    status = job.status
    text: str = status.phase
    if status.reason and status.reason != status.phase:
        text += f" ({status.reason})"
    if status.phase in AT_WORK and status.progress is not None and status.progress.steps:
        return f"{text}: {progress_text(status.progress)}"
    message = next((item.message for item in status.conditions if item.reason == status.reason), "")
    return f"{text}: {one_line(message)}" if message else text


def progress_text(progress: ProgressStatus) -> str:
    """Return a report of progress in one line."""
    parts = [steps_text(progress)]
    parts += [f"loss {progress.loss}"] if progress.loss else []
    parts += [f"{progress.eta} left"] if progress.eta else []
    return ", ".join(parts)


def steps_text(progress: ProgressStatus | Progress) -> str:
    """Return how far a stage is: `train, step 120 of 400`."""
    text = f"{progress.stage}, {'step ' if progress.stage == 'train' else ''}{progress.step}"
    return f"{text} of {progress.total_steps}" if progress.total_steps else text


def notable(status: JobStatus) -> list[Condition]:
    """Return the conditions that add something to the phase: what is not as it should be, and how it ended."""
    ended = status.phase in ("Succeeded", "Failed")

    def matters(condition: Condition) -> bool:
        if condition.type in ("Complete", "Failed", "Degraded"):
            return condition.status == "True"
        if condition.type == "Accepted":
            return condition.status != "True"
        return condition.type in ("Running", "Progressing") and condition.status != "True" and not ended

    return [condition for condition in status.conditions if matters(condition)]


def stage_end(stage: StageStatus) -> str:
    """Return how a stage's newest attempt ended, or while it has not, the one before."""
    if stage.attempt_end is not None:
        return end_text(stage.attempt_end)
    return "" if stage.last_attempt_end is None else f"before: {end_text(stage.last_attempt_end)}"


def end_text(end: AttemptEnd) -> str:
    """Return how an attempt ended, and what follows."""
    text = end.reason if end.exit_code is None else f"{end.reason} ({end.exit_code})"
    text += f" on {end.node}" if end.node else ""
    text += f": {one_line(end.message)}" if end.message else ""
    return f"{text} → restart" if end.action == "Restart" else text


def restarts_text(counters: RestartCounters) -> str:
    """Return how often a stage was restarted, by what the restarts count against; empty if it was not."""
    counts = {"user": counters.user_restarts, "infra": counters.infra_restarts, "free": counters.free_restarts}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def score_name(name: str) -> str:
    """Return the name of a result for people: `held-out depth relative change` for MLflow's name with slashes."""
    text = one_line(name).removeprefix("eval/").replace("heldout/", "held-out/", 1)
    return text.replace("/", " ").replace("_", " ")


def short_number(text: str) -> str:
    """Return a decimal number with six significant digits at most."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return one_line(text)


def one_line(text: str) -> str:
    """Return a text from the cluster, fit to be shown on a line."""
    return " ".join(clean(text).split())
