"""Spools that are sent to a real MLflow, for tests of what is there afterwards."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from unimrg_trainer.tracking.settings import TrackingSettings
from unimrg_trainer.tracking.uploader import Uploader


def settings_for(uri: str, attempt: int = 1) -> TrackingSettings:
    """Settings of a job of its own, in an experiment of its own."""
    name = uuid.uuid4().hex
    return TrackingSettings(uri, f"experiment-{name}", "a run", name, attempt)


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def upload_all(run_dir: Path, settings: TrackingSettings, timeout: float = 60) -> str:
    """Ship the spool and return the run's id."""
    uploader = Uploader(run_dir, settings, first_wait=0.05, poll_seconds=0.05)
    uploader.start()
    report = uploader.stop(timeout)
    assert report.remaining == 0
    assert report.run_id is not None
    return report.run_id


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float, int]]:
    """All points of a metric, in order of steps: (step, value, time stamp)."""
    points = client_of(uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)
