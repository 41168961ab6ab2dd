"""The run on the MLflow server: found or made by the job's uid. The only place where a run's data goes to MLflow.

No call is retried here. A lost reply is harmless: experiment and run are found again by name and uid, points with
four equal fields are kept once, parameters, tags, files and data sets are replaced by their equals.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from unimrg_trainer.tracking.client import Client, ensure_experiment
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, RunGoneError, UnavailableError
from unimrg_trainer.tracking.segments import Record
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings

_logger = logging.getLogger(__name__)

PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 6000, 8000, 36
_PARENT = "mlflow.parentRunId"
DUPLICATE = "unimrg.duplicate_of"
"""Tag of a run that was given up for another of the same job or sweep."""


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
    """A run of a real server or SQLite file: the oldest of the experiment with the job's `unimrg.job_uid`.

    A job of a sweep has it below the sweep's run, which is the oldest with the tag `unimrg.sweep`. Every method may
    raise UnavailableError; `log` and `log_object` also RefusedError and RunGoneError.
    """

    def __init__(self, settings: TrackingSettings, raise_if_stopped: Callable[[], None] = lambda: None) -> None:
        """`raise_if_stopped` is called around the making of a run, and raises UnavailableError in an uploader that was
        given up: it must not make a second one."""
        self.settings = settings
        self.run_id = ""
        self.url = ""
        self.params: dict[str, str] = {}
        """The parameters that the run has."""
        self._raise_if_stopped = raise_if_stopped
        self._connection: Client | None = None
        self._experiment_id = ""
        self._parent_id: str | None = None
        self._models: dict[str, str] = {}
        """SHA-256 of a manifest → id of the LoggedModel."""

    @property
    def _client(self) -> Client:
        if self._connection is None:
            self._connection = Client(self.settings.uri)
        return self._connection

    def connect(self, start_ms: int) -> dict[str, str]:
        """Find or make the run and return its tags. `start_ms` is when a new run began (milliseconds since 1970)."""
        try:
            self._experiment_id = ensure_experiment(self._client, self.settings).experiment_id
            run = self._oldest("unimrg.job_uid", self.settings.job_uid, lambda: self._create(start_ms))
        except RefusedError as error:
            raise ActionRequiredError(str(error), "correct spec.tracking.mlflow") from error
        self.run_id, tags = str(run.info.run_id), dict(run.data.tags)
        uri = self.settings.public_uri.rstrip("/")
        page = f"{uri}/#/experiments/{quote(self._experiment_id)}/runs/{quote(self.run_id)}"
        # a browser that never saw this server shows its pages about generative AI unless the link says otherwise
        self.url = f"{page}?workflowType=machine_learning" if uri.startswith("http") else ""
        self.params = dict(run.data.params)
        self._parent_id = tags.get(_PARENT)
        return tags

    def is_usable(self) -> bool:
        """Return whether the run is still there and not deleted."""
        try:
            return bool(self._client.get_run(self.run_id).info.lifecycle_stage == "active")
        except RunGoneError:
            return False

    def latest(self) -> dict[str, tuple[int, float]]:
        """Return for each metric the last step that it has, and the value there."""
        points = self._client.get_run(self.run_id).data.to_proto().metrics
        return {point.key: (point.step, point.value) for point in points}

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
        """Send a file, a picture of a series, a data set, or scores to the model that they are of."""
        if path is not None and record.image is not None:
            self._log_image(record, record.image, path)
        elif path is not None:
            self._client.log_artifact(self.run_id, str(path), record.folder or None)
        elif record.dataset is not None and record.model is None:
            self._log_dataset(record.dataset)
        elif record.dataset is not None and (model := self._models.get(record.model or "")) is not None:
            self._log_scores(record, record.dataset, model)

    def set_status(self, status: TerminalStatus | None, end_ms: int) -> None:
        """Close the run, which still takes what is sent later; None: re-open it for another attempt.

        A sweep's run is open while one of its jobs' is.
        """
        if self.settings.node_rank:
            return
        self._close(self.run_id, status, end_ms)
        if self._parent_id is not None:
            siblings = self._search(_PARENT, self._parent_id)
            running = any(run.info.status == "RUNNING" for run in siblings)
            with suppress(RunGoneError, RefusedError):  # somebody deleted it
                self._close(self._parent_id, None if running else "FINISHED", end_ms)

    def _close(self, run_id: str, status: TerminalStatus | None, end_ms: int) -> None:
        if status is None:
            self._client.update_run(run_id, "RUNNING")
        else:
            self._client.set_terminated(run_id, status, end_ms)

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
                self._models[wanted.pop(identity).sha256] = model.model_id
        for checkpoint in wanted.values():
            self._models[checkpoint.sha256] = self._add_model(checkpoint)

    def _add_model(self, checkpoint: Checkpoint) -> str:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models.utils import get_external_mlflow_model_spec

        label = "".join("-" if letter in "/:.%\"'" else letter for letter in self.settings.run_name)
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
        return str(model.model_id)

    def _log_scores(self, record: Record, dataset: dict[str, str], model_id: str) -> None:
        """Add points that the run has to a model; MLflow keeps them once in the run, and once in the model."""
        from mlflow.entities import Metric

        of = {
            "model_id": model_id,
            "dataset_name": dataset["name"],
            "dataset_digest": dataset["digest"][:DIGEST_LENGTH],
        }
        metrics = [Metric(name, value, record.ts, record.step, **of) for name, value in record.metrics.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _log_image(self, record: Record, series: str, path: Path) -> None:
        """Unless it is there: MLflow gives a picture that is sent again another name."""
        from PIL import Image

        shown = [file.path for file in self._client.list_artifacts(self.run_id, "images")]
        if any(f"+timestamp+{record.ts}+" in name and name.endswith("+compressed.webp") for name in shown):
            return
        try:
            with Image.open(path) as image:
                pixels = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise RefusedError(f"{path.name} is no picture: {error}") from error
        self._client.log_image(self.run_id, pixels, key=series, step=record.step, timestamp=record.ts)

    def _log_dataset(self, dataset: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": dataset["uri"]})
        entity = Dataset(dataset["name"], dataset["digest"][:DIGEST_LENGTH], "unimrg", source)
        context = InputTag("mlflow.data.context", dataset["context"])
        self._client.log_inputs(self.run_id, [DatasetInput(entity, [context])])

    def _create(self, start_ms: int) -> Any:
        if self.settings.node_rank:
            raise UnavailableError("the launcher of the first node has not made the run yet")
        tags = {"unimrg.job_uid": self.settings.job_uid, "unimrg.attempt": str(self.settings.attempt)}
        if (sweep := self.settings.sweep) is not None:
            made = {"unimrg.sweep": sweep, "mlflow.note.content": f"The jobs of the sweep **{sweep}** lie below."}
            parent = self._oldest("unimrg.sweep", sweep, lambda: self._create_run(start_ms, made, sweep))
            tags[_PARENT] = parent.info.run_id
        return self._create_run(start_ms, tags, self.settings.run_name)

    def _create_run(self, start_ms: int, tags: dict[str, str], name: str) -> Any:
        self._raise_if_stopped()
        created = self._client.create_run(self._experiment_id, start_time=start_ms, tags=tags, run_name=name)
        try:
            self._raise_if_stopped()
        except UnavailableError:  # the request hung, and another uploader may have made the run since
            self._discard(created, "superseded")
            raise
        return created

    def _oldest(self, tag: str, value: str, create: Callable[[], Any]) -> Any:
        """Return the oldest run with this tag, made if there is none."""
        runs = self._search(tag, value)
        if not runs:
            created = create()
            # Another client may have made one at the same moment: all must agree on one.
            runs = self._search(tag, value) or [created]
        oldest, *others = runs
        for other in others:
            self._discard(other, oldest.info.run_id)
        return oldest

    def _discard(self, run: Any, kept: str) -> None:
        """Close a run that was given up for another; it is never found again."""
        self._client.set_tag(run.info.run_id, DUPLICATE, kept)
        self._client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, tag: str, value: str) -> list[Any]:
        """Return the experiment's runs with this tag, the oldest first."""
        found = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{value}'", max_results=1000)
        own = [run for run in found if DUPLICATE not in run.data.tags]
        return sorted(own, key=lambda run: (run.info.start_time, run.info.run_id))
