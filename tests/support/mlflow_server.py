"""A real MLflow server on a free loopback port: SQLite, one worker, no jobs; its workers end with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guarded import GuardedProcess
from tests.support.ports import free_port, http_status

READY_SECONDS = 120.0


class MlflowServer:
    """May be started, killed and started again on the same port and data base; its log is `server.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Start and wait until it answers; raises RuntimeError with the end of the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = self.folder / "server.log"
        self._process = GuardedProcess(command, log, folder=self.folder, environment=environment)
        self._process.wait_until(lambda: http_status(f"{self.uri}/health") == 200, READY_SECONDS)

    def kill(self) -> None:
        """End it at once, as a lost machine would."""
        if self._process is not None:
            self._process.kill()
            self._process = None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server that all tests of a session share; use experiments and uids of your own."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    yield server
    server.kill()
