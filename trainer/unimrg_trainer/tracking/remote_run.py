"""The run on the MLflow server: found or made by the job's uid, and the only place where MLflow is called.

MLflow is imported when the first call is made, in the shipper's thread: the import costs seconds. Its client
answers every failure with one exception type; here they become four, because they need four different
reactions.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from unimrg_api.redaction import clean
from unimrg_trainer.tracking.embedded import ensure_database
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings, sqlite_path

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

METRICS_PER_BATCH = 1000
PARAMS_OR_TAGS_PER_BATCH = 100
EXPERIMENTS_PER_SEARCH = 500
PARAM_LENGTH = 6000
TAG_LENGTH = 8000

_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST"}
_FORBIDDEN = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}
_HTTP_CODE = re.compile(r"failed with error code (\d{3})")


class UnavailableError(Exception):
    """The server cannot take anything now: keep everything and try later."""


class UnauthorisedError(UnavailableError):
    """The server does not accept the credentials: keep everything, somebody must act."""


class RefusedError(Exception):
    """The server will never take what was sent (a 4xx answer): put it aside."""


class RunGoneError(Exception):
    """The run was deleted, or the server has another data base than before: find or make it, send all
    again."""


@dataclass(frozen=True)
class Point:
    """One value of one metric. `timestamp` in milliseconds; identity on the server is all four fields."""

    key: str
    value: float
    timestamp: int
    step: int


class RemoteRun(Protocol):
    """What the shipper needs of a server. Every method may raise UnavailableError; `log_*` also RefusedError
    and RunGoneError."""

    run_id: str | None
    url: str

    def connect(self, known_run_id: str | None, start_ms: int) -> str: ...
    def is_usable(self) -> bool: ...
    def log_points(self, points: Sequence[Point]) -> None: ...
    def log_params(self, attempt: int, params: Mapping[str, str]) -> None: ...
    def log_tags(self, tags: Sequence[tuple[str, str]]) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def set_running(self) -> None: ...
    def set_terminated(self, status: TerminalStatus, end_ms: int) -> None: ...


class MlflowRun:
    """A run of a real server or SQLite file: the oldest with the job's `unimrg.job_uid`, in whatever experiment.

    The experiment of the settings is where a new run is made; a job whose settings name another one later keeps
    its run.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        self.run_id: str | None = None
        self.experiment_id = ""
        self.url = ""
        self._settings = settings
        self._client: Any = None
        self._params: dict[str, str] = {}
        self._changes: dict[int, dict[str, list[str]]] = {}
        self._warned = False

    def connect(self, known_run_id: str | None, start_ms: int) -> str:
        """Find or make the run and return its id.

        `known_run_id` is tried first; `start_ms` is when a new run began.
        """
        try:
            if self._client is None:
                self._client = self._call(_make_client, self._settings)
            run = self._call(self._get_active, known_run_id) if known_run_id else None
            if run is None or run.data.tags.get("unimrg.job_uid") != self._settings.job_uid:
                run = self._call(self._find_or_create, start_ms)
            self._call(self._compare_experiment, run)
        except RefusedError as error:
            # Nothing to put aside here: without a run there is nowhere to send anything.
            raise UnavailableError(str(error)) from error
        self.run_id = str(run.info.run_id)
        self.experiment_id = str(run.info.experiment_id)
        self.url = _run_url(self._settings.public_uri, self.experiment_id, self.run_id)
        self._params = dict(run.data.params)
        self._changes = _changes_in(run.data.tags)
        return self.run_id

    def is_usable(self) -> bool:
        """Is the run still there and not deleted?"""
        return self._call(self._get_active, self.run_id) is not None

    def log_points(self, points: Sequence[Point]) -> None:
        """Send at most 1000 points."""
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
        self._call(self._client.log_batch, self.run_id, metrics=metrics)

    def log_params(self, attempt: int, params: Mapping[str, str]) -> None:
        """Send new parameters; the tag `param_change.<attempt>` tells which the run has with another value.

        The server never changes a parameter, and refuses a whole batch in which one differs.
        """
        from mlflow.entities import Param

        wanted = {name: value[:PARAM_LENGTH] for name, value in params.items()}
        new = {name: value for name, value in wanted.items() if name not in self._params}
        if new:
            self._call(self._client.log_batch, self.run_id, params=[Param(*item) for item in new.items()])
            self._params.update(new)
        changed = {
            name: [self._params[name][:100], value[:100]]
            for name, value in wanted.items()
            if self._params[name] != value
        }
        if changed:
            known = self._changes.setdefault(attempt, {})
            known.update(changed)
            shown = dict(list(known.items())[:30])
            self.log_tags([(f"param_change.{attempt}", json.dumps(shown, sort_keys=True))])

    def log_tags(self, tags: Sequence[tuple[str, str]]) -> None:
        """Send at most 100 tags; a tag that is there gets the new value."""
        from mlflow.entities import RunTag

        entities = [RunTag(name, value[:TAG_LENGTH]) for name, value in tags]
        self._call(self._client.log_batch, self.run_id, tags=entities)

    def log_file(self, path: Path, folder: str) -> None:
        """Send one file."""
        self._call(self._client.log_artifact, self.run_id, str(path), folder or None)

    def set_running(self) -> None:
        """Re-open the run for another attempt."""
        self._call(self._client.update_run, self.run_id, "RUNNING")

    def set_terminated(self, status: TerminalStatus, end_ms: int) -> None:
        """Close the run. It still takes what is sent later."""
        self._call(self._client.set_terminated, self.run_id, status, end_ms)

    def _find_experiment(self) -> str:
        name = self._settings.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                created = self._client.create_experiment(name, self._settings.artifact_location())
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
            else:
                return str(created)
        if experiment.lifecycle_stage != "active":
            raise UnavailableError(
                f"the experiment {name!r} is deleted: restore it (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}) or choose another name in spec.tracking"
            )
        return str(experiment.experiment_id)

    def _get_active(self, run_id: str) -> Any:
        """The run, or None if it is not there or deleted."""
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", "") in _MISSING:
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _find_or_create(self, start_ms: int) -> Any:
        runs = self._search()
        if not runs:
            tags = {"unimrg.job_uid": self._settings.job_uid, "unimrg.attempt": str(self._settings.attempt)}
            created = self._client.create_run(
                self._find_experiment(), start_time=start_ms, tags=tags, run_name=self._settings.run_name
            )
            # Somebody else may have made one at the same moment: all must agree on one.
            runs = self._search() or [created]
        oldest, *others = runs
        for other in others:
            if "unimrg.duplicate_of" not in other.data.tags:
                self._client.set_tag(other.info.run_id, "unimrg.duplicate_of", oldest.info.run_id)
                self._client.set_terminated(other.info.run_id, "KILLED")
        return oldest

    def _search(self) -> list[Any]:
        """The job's runs in all experiments that are not deleted, the oldest first."""
        found: list[Any] = []
        page = None
        while True:
            experiments = self._client.search_experiments(max_results=EXPERIMENTS_PER_SEARCH, page_token=page)
            if experiments:
                found += self._client.search_runs(
                    [experiment.experiment_id for experiment in experiments],
                    filter_string=f"tags.`unimrg.job_uid` = '{self._settings.job_uid}'",
                    order_by=["attributes.start_time ASC"],
                    max_results=100,
                )
            page = experiments.token
            if not page:
                return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def _compare_experiment(self, run: Any) -> None:
        """Say once if the run lies elsewhere than the settings say."""
        name = self._client.get_experiment(run.info.experiment_id).name
        if name != self._settings.experiment and not self._warned:
            self._warned = True
            _logger.warning(
                "the run of this job lies in the experiment %r and stays there, although the settings name %r",
                name,
                self._settings.experiment,
            )

    def _call(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """Call MLflow and translate what it raises."""
        try:
            return function(*arguments, **named)
        except (UnavailableError, RefusedError, RunGoneError):
            raise
        except Exception as error:
            raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    text = clean(str(error), 500).strip() or type(error).__name__
    code = str(getattr(error, "error_code", ""))
    match = _HTTP_CODE.search(text)
    http = int(match[1]) if match else 0
    if code in _FORBIDDEN or http in (401, 403):
        return UnauthorisedError(text)
    if code in _MISSING:
        return RunGoneError(text)
    if code in _REFUSED or http in (400, 413, 422):
        return RefusedError(text)
    return UnavailableError(text)


def _make_client(settings: TrackingSettings) -> Any:
    """Import MLflow with the patience of a caller that has its own back-off, and return a client."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # the variable above is read at the first import only
    database = sqlite_path(settings.uri)
    if database is not None:
        ensure_database(database)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.uri)


def _run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """The run's page; empty where no server shows one."""
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"


def _changes_in(tags: Mapping[str, str]) -> dict[int, dict[str, list[str]]]:
    """What earlier shippers wrote into `param_change.<attempt>`, so that it is added to and not replaced."""
    changes: dict[int, dict[str, list[str]]] = {}
    for name, value in tags.items():
        number = name.removeprefix("param_change.")
        if number == name or not number.isdigit():
            continue
        try:
            content = json.loads(value)
        except ValueError:
            continue
        if isinstance(content, dict):
            changes[int(number)] = content
    return changes
