"""The run on the MLflow server: found or made by the job's uid. The only place where a run's data goes to MLflow.

No call is retried here. A lost reply is harmless: experiment and run are found again by name and uid, points with
four equal fields are kept once, parameters, tags, files and data sets are replaced by their equals.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from unimrg_trainer.tracking.client import Client, ensure_experiment
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, RunGoneError, UnavailableError
from unimrg_trainer.tracking.segments import Record
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings

_logger = logging.getLogger(__name__)

PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 6000, 8000, 36
_DUPLICATE = "unimrg.duplicate_of"
"""Tag of a run that was given up for another of the same job."""


class Point(NamedTuple):
    """One value of one metric. `timestamp` in milliseconds; MLflow keeps a point once if all four fields are equal."""

    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    """A parameter, which can be set once."""

    key: str
    value: str


class Tag(NamedTuple):
    """A tag, whose latest value counts."""

    key: str
    value: str


Item = Point | Param | Tag


class Checkpoint(NamedTuple):
    """A checkpoint that the store keeps: `sha256` is that of its manifest, which has those of all its objects."""

    step: int
    uri: str
    sha256: str


class MlflowRun:
    """A run of a real server or SQLite file: the oldest of its experiment with the job's `unimrg.job_uid`.

    A job whose settings name another experiment later keeps its run, whose id the state of the upload has. Every
    method may raise UnavailableError; `log` and `log_object` also RefusedError and RunGoneError.
    """

    def __init__(self, settings: TrackingSettings, may_continue: Callable[[], bool] = lambda: True) -> None:
        """`may_continue` is asked before a run is made: an uploader that was given up must not make a second one."""
        self.run_id = ""
        self.url = ""
        self.params: dict[str, str] = {}
        """The parameters that the run has."""
        self._settings = settings
        self._may_continue = may_continue
        self._connection: Client | None = None
        self._experiment_id = ""

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
                experiment, self._settings.experiment,
            )  # fmt: skip
        self.run_id, self._experiment_id = str(run.info.run_id), run.info.experiment_id
        uri = self._settings.public_uri.rstrip("/")
        page = f"{uri}/#/experiments/{quote(self._experiment_id)}/runs/{quote(self.run_id)}"
        self.url = page if uri.startswith("http") else ""
        self.params = dict(run.data.params)
        return self.run_id

    def is_usable(self) -> bool:
        """Return whether the run is still there and not deleted."""
        return self._get_active(self.run_id) is not None

    def history(self, key: str, first_step: int) -> dict[int, float]:
        """Return the latest value of a metric at each step from `first_step` on."""
        points = [point for point in self._client.get_metric_history(self.run_id, key) if point.step >= first_step]
        return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}

    def log(self, items: Sequence[Item]) -> None:
        """Send points, parameters that the run lacks, and tags. MLflow refuses a whole batch for one item."""
        from mlflow.entities import Metric, RunTag
        from mlflow.entities import Param as MlflowParam

        self._client.log_batch(
            self.run_id,
            metrics=[Metric(*item) for item in items if isinstance(item, Point)],
            params=[MlflowParam(*item) for item in items if isinstance(item, Param)],
            tags=[RunTag(item.key, item.value[:TAG_LENGTH]) for item in items if isinstance(item, Tag)],
        )

    def log_object(self, record: Record, path: Path | None) -> None:
        """Send a file, a picture of a series, or a data set."""
        if path is None:
            self._log_dataset(record["dataset"])
        elif "image" in record:
            self._log_image(record, path)
        else:
            self._client.log_artifact(self.run_id, str(path), record.get("folder") or None)

    def set_status(self, status: TerminalStatus | None, end_ms: int) -> None:
        """Close the run, which still takes what is sent later; None: re-open it for another attempt."""
        if self._settings.node_rank:
            return
        if status is None:
            self._client.update_run(self.run_id, "RUNNING")
        else:
            self._client.set_terminated(self.run_id, status, end_ms)

    def keep_models(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Make the run's LoggedModels those of `checkpoints`: add what lacks, delete those of deleted checkpoints."""
        where = f"source_run_id = '{self.run_id}'"
        found = self._client.search_logged_models([self._experiment_id], where, max_results=1000)
        wanted = {(str(one.step), one.sha256): one for one in checkpoints}
        for model in found:
            identity = model.params.get("step", ""), model.tags.get("sha256", "")
            if str(model.status) != "READY" or identity not in wanted:  # half made, or of a deleted checkpoint
                self._client.delete_logged_model(model.model_id)
            else:
                del wanted[identity]
        for checkpoint in wanted.values():
            self._add_model(checkpoint)

    def _add_model(self, checkpoint: Checkpoint) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models.utils import get_external_mlflow_model_spec

        label = "".join("-" if letter in "/:.%\"'" else letter for letter in self._settings.run_name)
        model = self._client.create_logged_model(
            self._experiment_id,
            name=f"{label}-step{checkpoint.step}",
            source_run_id=self.run_id,
            tags={"uri": checkpoint.uri, "sha256": checkpoint.sha256, "mlflow.model.isExternal": "true"},
            params={"step": str(checkpoint.step)},
            model_type="checkpoint",
        )
        with tempfile.TemporaryDirectory() as folder:  # the registry takes only models that have this file
            get_external_mlflow_model_spec(model).save(f"{folder}/MLmodel")
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, checkpoint.step)])
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _log_image(self, record: Record, path: Path) -> None:
        """As MLflow's `log_image` does, but under a name that is the same when it is sent again."""
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        unique = uuid.uuid5(uuid.NAMESPACE_URL, record["file"])
        series = record["image"].replace("/", "~")
        name = f"{series}+step+{record['step']}+timestamp+{record['ts']}+{unique}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(path, f"{folder}/{name}.png")
            try:
                with Image.open(path) as image:
                    compress_image_size(image.convert("RGB")).save(f"{folder}/{name}+compressed.webp")
            except (OSError, SyntaxError, ValueError) as error:
                raise RefusedError(f"{path.name} is no picture: {error}") from error
            self._client.log_artifacts(self.run_id, folder, "images")
        self._client.set_tag(self.run_id, "mlflow.loggedImages", "True")

    def _log_dataset(self, dataset: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": dataset["uri"]})
        entity = Dataset(dataset["name"], dataset["digest"][:DIGEST_LENGTH], "unimrg", source)
        context = InputTag("mlflow.data.context", dataset["context"])
        self._client.log_inputs(self.run_id, [DatasetInput(entity, [context])])

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
            if self._settings.node_rank:
                raise UnavailableError("the launcher of the first node has not made the run yet")
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
