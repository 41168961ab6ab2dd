"""Checks, before anything is computed, that the tracking server will take what a job sends."""

from __future__ import annotations

import logging
import tempfile
import threading
import uuid
from pathlib import Path

from unimrg_trainer.tracking.errors import ActionRequiredError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import Client, ensure_experiment
from unimrg_trainer.tracking.settings import TrackingSettings

_logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0


def check_server(settings: TrackingSettings, timeout: float = CHECK_SECONDS) -> str | None:
    """Return what is wrong with the tracking server and what to do, in one sentence; None if nothing is.

    Makes the requests that the job will need: finds or creates the experiment, changes a tag of it (which takes the
    permission that creating runs takes), and writes and deletes a file in its artifact store. Takes at most `timeout`
    seconds.
    """
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(_problem(settings)), name="mlflow-check", daemon=True)
    thread.start()
    thread.join(timeout)
    return found[0] if found else f"MLflow at {settings.public_uri} did not answer within {timeout:.0f} s"


def _problem(settings: TrackingSettings) -> str | None:
    try:
        client = Client(settings)
        experiment = ensure_experiment(client, settings)
        client.set_experiment_tag(experiment.experiment_id, "unimrg.checked", "true")
    except ActionRequiredError as error:
        return f"MLflow at {settings.public_uri} refuses this job: {error}"
    except Exception as error:
        kind = "" if isinstance(error, UnavailableError) else f"{type(error).__name__}: "
        return f"MLflow at {settings.public_uri} cannot be reached: {kind}{error}"
    return _artifact_problem(experiment.artifact_location, settings.uri)


def _artifact_problem(location: str, tracking_uri: str) -> str | None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    folder = f"unimrg-check-{uuid.uuid4().hex}"
    try:
        repository = get_artifact_repository(location, tracking_uri=tracking_uri)
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "check.txt"
            file.write_text("written and deleted by a check of unimrg\n")
            repository.log_artifact(str(file), folder)
    except Exception as error:
        return f"MLflow's artifact store {location} cannot be written: {error}"
    try:
        repository.delete_artifacts(folder)
    except Exception as error:
        _logger.info("%s stays in MLflow's artifact store %s: %s", folder, location, error)
    return None
