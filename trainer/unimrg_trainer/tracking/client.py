"""MLflow's client without retries of its own, the job's experiment, and a check of both before anything is computed.

MLflow is imported when the first client is made, in the uploader's thread: the import costs seconds.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.embedded import ensure_database, relocate_artifacts
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, explain, translate
from unimrg_trainer.tracking.settings import TrackingSettings, sqlite_path

_logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_KIND, _MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""The tag by which MLflow's pages show an experiment's runs as trainings or as evaluations of generative AI."""


class Client:
    """MLflow's client; every method raises one of the errors of `tracking.errors` and nothing else."""

    def __init__(self, uri: str) -> None:
        try:
            self._client = _make_client(uri)
        except Exception as error:
            raise translate(error) from error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except Exception as error:
                raise translate(error) from error

        return call


def _make_client(uri: str) -> Any:
    for name in _SECRETS:
        value = os.environ.get(name, "")
        if value != value.strip():
            raise ActionRequiredError(
                f"{name} begins or ends in white space",
                "store it without a line break (printf instead of echo)",
                ExitCode.CREDENTIALS,
            )
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # the variable above is read at the first import only
    database = sqlite_path(uri)
    if database is not None:
        ensure_database(database)
        relocate_artifacts(database)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def ensure_experiment(client: Client, settings: TrackingSettings) -> Any:
    """Return the experiment of the settings, made if it is missing. Raises ActionRequiredError if it is deleted."""
    name = settings.experiment
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        refusal: Exception | None = None
        try:
            client.create_experiment(name, settings.artifact_location())
        except RefusedError as error:
            refusal = error  # or another client made it in the meantime
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise ActionRequiredError(
                f"the experiment {name!r} cannot be created: {refusal}", "correct spec.tracking.mlflow.experiment"
            )
    if experiment.lifecycle_stage != "active":
        raise ActionRequiredError(
            f"the experiment {name!r} is deleted",
            f"restore it (mlflow experiments restore --experiment-id {experiment.experiment_id}) or choose another"
            " name in spec.tracking.mlflow.experiment",
        )
    # What a person chose is left, but written all the same: it takes the permission that creating runs takes.
    kind = experiment.tags.get(_KIND, "inferred")
    client.set_experiment_tag(experiment.experiment_id, _KIND, _MODEL_TRAINING if "inferred" in kind else kind)
    return experiment


def check_server(settings: TrackingSettings, timeout: float = CHECK_SECONDS) -> str | None:
    """Return what is wrong with the tracking server and what to do, in one sentence; None if nothing is.

    Makes the requests that the job will need: finds or creates the experiment, changes a tag of it, and writes and
    deletes a file in its artifact store. Takes at most `timeout` seconds.
    """
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(_problem(settings)), name="mlflow-check", daemon=True)
    thread.start()
    thread.join(timeout)
    return found[0] if found else f"MLflow at {settings.public_uri} did not answer within {timeout:.0f} s"


def _problem(settings: TrackingSettings) -> str | None:
    try:
        experiment = ensure_experiment(Client(settings.uri), settings)
    except Exception as error:
        return explain(settings.public_uri, error)[0]
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location, folder = experiment.artifact_location, f"unimrg-check-{uuid.uuid4().hex}"
    try:
        repository = get_artifact_repository(location, tracking_uri=settings.uri)
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
