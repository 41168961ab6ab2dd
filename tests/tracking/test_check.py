"""What the stage `check` finds out about a tracking server."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.mlflow_server import MlflowServer
from tests.support.tcp_gate import TcpGate
from tests.support.uploads import client_of, settings_for
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.client import check_server
from unimrg_trainer.tracking.spool import Spool
from unimrg_trainer.tracking.uploader import finish


def test_a_deleted_experiment_is_a_problem_with_a_remedy(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = settings_for(mlflow_server.uri)
    client = client_of(mlflow_server.uri)
    client.delete_experiment(client.create_experiment(settings.experiment))
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})

    before = time.monotonic()
    report = finish(tmp_path, None, settings, "FINISHED", timeout=60)

    assert time.monotonic() - before < 30  # waiting does not help
    assert (report.remaining, report.exit_code) == (1, ExitCode.CONFIGURATION)
    assert "is deleted; restore it (mlflow experiments restore" in report.problem
    assert "is deleted; restore it" in str(check_server(settings))


def test_the_check_makes_the_requests_of_a_job_and_leaves_no_run(mlflow_server: MlflowServer) -> None:
    settings = settings_for(mlflow_server.uri)

    assert check_server(settings) is None

    experiment = client_of(mlflow_server.uri).get_experiment_by_name(settings.experiment)
    assert experiment is not None
    assert not list((mlflow_server.folder / "artifacts").glob("**/check.txt"))
    assert client_of(mlflow_server.uri).search_runs([experiment.experiment_id]) == []


def test_the_check_passes_on_what_the_server_says(mlflow_server: MlflowServer, tcp_gate: TcpGate) -> None:
    by_another_name = mlflow_server.uri.replace("127.0.0.1", "127.1")
    problem = str(check_server(settings_for(by_another_name)))
    assert "Invalid Host header" in problem and "mlflow server --allowed-hosts" in problem

    tcp_gate.swallow()
    problem = str(check_server(settings_for(tcp_gate.uri), timeout=1.0))
    assert "did not answer within 1 s" in problem


def test_the_check_names_an_artifact_store_that_cannot_be_written(mlflow_server: MlflowServer) -> None:
    settings = settings_for(mlflow_server.uri)
    client_of(mlflow_server.uri).create_experiment(settings.experiment, "file:///proc/no/such/folder")

    assert "artifact store file:///proc/no/such/folder cannot be written" in str(check_server(settings))
