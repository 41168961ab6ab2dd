"""Reads what the runs of an MLflow experiment keep: the files of their results, and the losses of training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import NotFound
from unimrg_trainer.tracking.client import Client
from unimrg_trainer.tracking.errors import RefusedError, RunGoneError, UnavailableError, explain
from unimrg_trainer.tracking.mlflow_run import DUPLICATE
from unimrg_trainer.tracking.settings import sqlite_path, sqlite_uri

LOSSES = "train/loss/"
_Entries = list[Any]
_FAILURES = (UnavailableError, RefusedError, RunGoneError)


class TrackedRun:
    """A run of an experiment. Every method raises UserError where the server does not answer."""

    def __init__(self, client: Client, server: str, run: Any) -> None:
        self._client, self._server, self._run = client, server, run
        self._folders: dict[str, _Entries] = {}
        self.uri = f"MLflow run {run.info.run_name} ({run.info.run_id})"

    def get(self, key: str) -> bytes:
        """Return an artifact. Raises NotFound."""
        if key not in [one.path for one in self._entries(key.rpartition("/")[0])]:
            raise NotFound(f"{self.uri} has no artifact {key}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(self._run.info.run_id, key, folder)).read_bytes()
            except _FAILURES as error:
                raise _unreachable(self._server, error) from error

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (key, bytes) of every artifact whose key starts with `prefix`."""
        found: list[tuple[str, int]] = []
        folders = [prefix.rpartition("/")[0]]
        while folders:
            for entry in self._entries(folders.pop()):
                if entry.is_dir and (entry.path.startswith(prefix) or prefix.startswith(f"{entry.path}/")):
                    folders.append(entry.path)
                elif not entry.is_dir and entry.path.startswith(prefix):
                    found.append((entry.path, entry.file_size or 0))
        return sorted(found)

    def curves(self) -> dict[str, dict[int, float]]:
        """Return the losses of each task by step."""
        names = sorted(name for name in self._run.data.metrics if name.startswith(LOSSES))
        try:
            return {
                name: {
                    point.step: point.value for point in self._client.get_metric_history(self._run.info.run_id, name)
                }
                for name in names
            }
        except _FAILURES as error:
            raise _unreachable(self._server, error) from error

    def _entries(self, folder: str) -> _Entries:
        if folder not in self._folders:
            try:
                self._folders[folder] = self._client.list_artifacts(self._run.info.run_id, folder)
            except _FAILURES as error:
                raise _unreachable(self._server, error) from error
        return self._folders[folder]


def experiment_runs(uri: str, experiment: str) -> Iterator[TrackedRun]:
    """Yield the runs of jobs in an experiment, the oldest first; a relative SQLite path counts from here.

    Raises UserError: INPUT_MISSING if there is no such experiment or data base, and where the server does not answer.
    """
    database = sqlite_path(uri, Path.cwd())
    if database is not None:
        if not database.exists():
            raise UserError(
                f"there is no MLflow data base {database}",
                remedy="correct --tracking-uri",
                exit_code=ExitCode.INPUT_MISSING,
            )
        uri = sqlite_uri(database)
    parts = urlsplit(uri)
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
    try:
        client = Client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(one.name for one in client.search_experiments(max_results=20))
            raise UserError(
                f"MLflow at {server} has no experiment {experiment!r}",
                remedy=f"choose one of {names}",
                exit_code=ExitCode.INPUT_MISSING,
            )
        token, order = None, ["attributes.start_time ASC"]
        while True:
            page = client.search_runs([found.experiment_id], order_by=order, max_results=500, page_token=token)
            for run in page:
                if "unimrg.job_uid" in run.data.tags and DUPLICATE not in run.data.tags:
                    yield TrackedRun(client, server, run)
            token = page.token
            if not token:
                return
    except _FAILURES as error:
        raise _unreachable(server, error) from error


def _unreachable(server: str, error: Exception) -> UserError:
    message, code = explain(server, error)
    return UserError(message, remedy="check --tracking-uri, and that the server runs", exit_code=code)
