"""Metrics about jobs: each change of a status is counted once, with few labels."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from tests.operator.raw_objects import job_object
from unimrg_api.status import JobStatus
from unimrg_operator.app.job_metrics import count_changes
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.observe import observe_job
from unimrg_operator.core.texts import parse_time

JOB = '{method="UniMRG",model="harmon",namespace="lab"'


def status(phase: str, state: str, **fields: Any) -> dict[str, Any]:
    stage = {"name": "train", "state": state, "attempt": 1, "attemptTime": "2026-11-24T10:00:00Z"}
    return {"phase": phase, "startTime": "2026-11-24T09:59:00Z", "stages": [stage], **fields}


def counted(*statuses: dict[str, Any], now: str) -> dict[str, float]:
    """Return what is counted when a job goes through these statuses."""
    metrics = Metrics()
    for before, after in pairwise(statuses):
        job = observe_job(job_object(status=before))
        count_changes(metrics, job, JobStatus.model_validate(after), parse_time(now))
    lines = [line.rpartition(" ") for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if float(value) and "_bucket" not in name}


def test_starts_and_ends_are_timed_once() -> None:
    starting, running = status("Starting", "Starting"), status("Running", "Running")
    over = status("Succeeded", "Succeeded", completionTime="2026-11-24T11:00:00Z")
    found = counted(starting, running, running, over, over, now="2026-11-24T10:00:40Z")
    assert found["unimrg_job_start_seconds_count" + JOB + "}"] == 1
    assert found["unimrg_job_start_seconds_sum" + JOB + "}"] == 40.0
    duration = "unimrg_job_duration_seconds_sum" + JOB.replace(
        ',namespace="lab"', ',namespace="lab",result="Succeeded"'
    )
    assert found[duration + "}"] == 3660.0
    assert found[duration.replace("_sum", "_count") + "}"] == 1


def test_a_label_is_never_what_a_user_wrote_freely() -> None:
    metrics, item = Metrics(), job_object()
    item["spec"]["model"] = {"custom": {"name": "whatever"}}
    for job in (item, {**job_object(), "spec": {"method": "nonsense"}}):
        over = JobStatus.model_validate(status("Failed", "Failed", completionTime="2026-11-24T11:00:00Z"))
        count_changes(metrics, observe_job(job), over, 0.0)
    text = metrics.text().decode()
    assert set(re.findall('model="([^"]*)"', text)) <= {"custom", ""}
    assert "whatever" not in text and "nonsense" not in text and '"tiny"' not in text
