"""The run on the MLflow server: found or made by the job's uid. The only place where a run's data goes to MLflow.

MLflow is imported when the first call is made, in the uploader's thread: the import costs seconds. No call is retried
here. A lost reply is harmless: experiment and run are found again by name and uid, points with four equal fields are
kept once, parameters, tags and files are replaced by their equals.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.embedded import ensure_database, relocate_artifacts
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, RunGoneError, UnavailableError, translate
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings, sqlite_path

_logger = logging.getLogger(__name__)

METRICS_PER_BATCH = 1000
PARAMS_OR_TAGS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
_DUPLICATE = "unimrg.duplicate_of"
"""Tag of a run that was given up for another of the same job."""
_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Point(NamedTuple):
    """One value of one metric. `timestamp` in milliseconds; MLflow keeps a point once if all four fields are equal."""

    key: str
    value: float
    timestamp: int
    step: int


class Client:
    """MLflow's client; every method raises one of the errors of `tracking.errors` and nothing else."""

    def __init__(self, settings: TrackingSettings) -> None:
        try:
            self._client = _make_client(settings)
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
    return experiment


class MlflowRun:
    """A run of a real server or SQLite file: the oldest of its experiment with the job's `unimrg.job_uid`.

    A job whose settings name another experiment later keeps its run, whose id the state of the upload has. Every
    method may raise UnavailableError; `log_*` also RefusedError and RunGoneError.
    """

    def __init__(self, settings: TrackingSettings, may_continue: Callable[[], bool] = lambda: True) -> None:
        """`may_continue` is asked before a run is made: an uploader that was given up must not make a second one."""
        self.run_id = ""
        self._may_continue = may_continue
        self.url = ""
        self._settings = settings
        self._connection: Client | None = None
        self._params: dict[str, str] = {}

    @property
    def _client(self) -> Client:
        if self._connection is None:
            self._connection = Client(self._settings)
        return self._connection

    def connect(self, known_run_id: str | None, start_ms: int) -> str:
        """Find or make the run and return its id.

        `known_run_id` is tried first; `start_ms` is when a new run began (milliseconds since 1970).
        """
        try:
            run = self._get_active(known_run_id) if known_run_id else None
            if run is None or run.data.tags.get("unimrg.job_uid") != self._settings.job_uid:
                run = self._find_or_create(start_ms)
            experiment = self._client.get_experiment(run.info.experiment_id).name
        except RefusedError as error:
            raise ActionRequiredError(str(error), "correct spec.tracking.mlflow") from error
        if experiment != self._settings.experiment and not self.run_id:
            _logger.warning(
                "the run of this job lies in the experiment %r and stays there, although the settings name %r",
                experiment,
                self._settings.experiment,
            )
        self.run_id = str(run.info.run_id)
        uri = self._settings.public_uri.rstrip("/")
        page = f"{uri}/#/experiments/{quote(run.info.experiment_id)}/runs/{quote(self.run_id)}"
        self.url = page if uri.startswith("http") else ""
        self._params = dict(run.data.params)
        return self.run_id

    def is_usable(self) -> bool:
        """Return whether the run is still there and not deleted."""
        return self._get_active(self.run_id) is not None

    def history(self, key: str, first_step: int) -> dict[int, float]:
        """Return the latest value of a metric at each step from `first_step` on."""
        points = [point for point in self._client.get_metric_history(self.run_id, key) if point.step >= first_step]
        return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}

    def log_points(self, points: Sequence[Point]) -> None:
        """Send at most 1000 points."""
        from mlflow.entities import Metric

        self._client.log_batch(self.run_id, metrics=[Metric(*point) for point in points])

    def log_params(self, attempt: int, params: Sequence[tuple[str, str]]) -> None:
        """Send new parameters; one that the run has with another value becomes a tag `param_change.<attempt>.<name>`.

        The server never changes a parameter, and refuses a whole batch in which one differs.
        """
        from mlflow.entities import Param

        wanted = {name: value[:PARAM_LENGTH] for name, value in params}
        new = {name: value for name, value in wanted.items() if name not in self._params}
        if new:
            self._client.log_batch(self.run_id, params=[Param(*item) for item in new.items()])
            self._params.update(new)
        for name, value in wanted.items():
            if (old := self._params[name]) != value:
                self.log_tags([(f"param_change.{attempt}.{name}", f"{old[:1000]} → {value[:1000]}")])

    def log_tags(self, tags: Sequence[tuple[str, str]]) -> None:
        """Send at most 100 tags; a tag that is there gets the new value."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, value[:TAG_LENGTH]) for name, value in tags])

    def log_file(self, path: str, folder: str) -> None:
        """Send one file."""
        self._client.log_artifact(self.run_id, path, folder or None)

    def set_status(self, status: TerminalStatus | None, end_ms: int) -> None:
        """Close the run, which still takes what is sent later; None: re-open it for another attempt."""
        if status is None:
            self._client.update_run(self.run_id, "RUNNING")
        else:
            self._client.set_terminated(self.run_id, status, end_ms)

    def _get_active(self, run_id: str) -> Any:
        """Return the run, or None if it is not there or deleted."""
        try:
            run = self._client.get_run(run_id)
        except RunGoneError:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _find_or_create(self, start_ms: int) -> Any:
        experiment = ensure_experiment(self._client, self._settings).experiment_id
        runs = self._search(experiment)
        if not runs:
            if not self._may_continue():
                raise UnavailableError("stopped before the run was made")
            tags = {"unimrg.job_uid": self._settings.job_uid, "unimrg.attempt": str(self._settings.attempt)}
            created = self._client.create_run(
                experiment, start_time=start_ms, tags=tags, run_name=self._settings.run_name
            )
            if not self._may_continue():  # the request hung, and another uploader may have made the job's run since
                self._discard(created, "superseded")
                raise UnavailableError("stopped while the run was being made")
            # Another client may have made one at the same moment: all must agree on one.
            runs = self._search(experiment) or [created]
        oldest, *others = runs
        for other in others:
            self._discard(other, oldest.info.run_id)
        return oldest

    def _discard(self, run: Any, kept: str) -> None:
        """Close a run that is not the job's; it is never found again."""
        self._client.set_tag(run.info.run_id, _DUPLICATE, kept)
        self._client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, experiment: str) -> list[Any]:
        """Return the job's runs, the oldest first."""
        found = self._client.search_runs(
            [experiment], filter_string=f"tags.`unimrg.job_uid` = '{self._settings.job_uid}'", max_results=100
        )
        own = [run for run in found if _DUPLICATE not in run.data.tags]
        return sorted(own, key=lambda run: (run.info.start_time, run.info.run_id))


def _make_client(settings: TrackingSettings) -> Any:
    """Import MLflow without retries of its own, for the caller has a back-off, and return a client."""
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
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # the variable above is read at the first import only
    database = sqlite_path(settings.uri)
    if database is not None:
        ensure_database(database)
        relocate_artifacts(database)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.uri)
