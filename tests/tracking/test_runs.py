"""Which MLflow run a job's records go to, below which run of a sweep, and how it is closed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.mlflow_server import MlflowServer
from tests.support.tcp_gate import TcpGate
from tests.support.uploads import client_of, history, settings_for, upload_all
from tests.support.waiting import wait_until
from unimrg_trainer.tracking.settings import TerminalStatus
from unimrg_trainer.tracking.spool import Spool
from unimrg_trainer.tracking.uploader import Uploader, finish


def test_of_two_runs_with_one_uid_the_oldest_wins(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = settings_for(mlflow_server.uri)
    client = client_of(mlflow_server.uri)
    experiment = client.create_experiment(settings.experiment)
    tags = {"unimrg.job_uid": settings.job_uid}
    younger = client.create_run(experiment, start_time=2000, tags=tags).info.run_id
    older = client.create_run(experiment, start_time=1000, tags=tags).info.run_id
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})

    assert upload_all(tmp_path, settings) == older

    run = client.get_run(younger)
    assert run.data.tags["unimrg.duplicate_of"] == older and run.info.status == "KILLED"


def test_another_node_adds_to_the_run_and_neither_makes_nor_opens_it(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    first = settings_for(mlflow_server.uri)
    other = replace(first, node_rank=1)
    Spool(tmp_path / "1/spool", 1).step(1, {"system/node_1/cpu_utilization_percentage": 50.0})
    uploader = Uploader(tmp_path / "1", other, first_wait=0.05, poll_seconds=0.05)
    uploader.start()
    wait_until(lambda: "first node has not made the run" in uploader.report().problem)
    Spool(tmp_path / "0/spool", 1).step(1, {"train/loss": 1.0})
    run_id = finish(tmp_path / "0", None, first, "FINISHED").run_id
    report = uploader.stop(60)

    assert (report.run_id, report.remaining, report.problem) == (run_id, 0, "")
    run = client_of(mlflow_server.uri).get_run(run_id)
    assert set(run.data.metrics) == {"train/loss", "system/node_1/cpu_utilization_percentage"}
    assert run.info.status == "FINISHED"


def test_another_experiment_gets_a_run_with_everything(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    first = settings_for(mlflow_server.uri)
    second = replace(first, experiment=f"{first.experiment}-renamed", attempt=2)
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})
    run_id = finish(tmp_path, None, first, "KILLED").run_id
    Spool(tmp_path / "spool", 2).step(2, {"train/loss": 0.5})

    assert (other := upload_all(tmp_path, second)) != run_id

    assert [step for step, _, _ in history(mlflow_server.uri, other, "train/loss")] == [1, 2]
    assert client_of(mlflow_server.uri).get_run(run_id).info.status == "KILLED"


def test_a_run_deleted_in_mid_training_is_made_again(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = settings_for(mlflow_server.uri)
    spool = Spool(tmp_path / "spool", 1)
    spool.step(1, {"train/loss": 1.0})
    uploader = Uploader(tmp_path, settings, first_wait=0.05, poll_seconds=0.05)
    uploader.start()
    wait_until(lambda: uploader.report().sent == 1)
    first = uploader.report().run_id
    client_of(mlflow_server.uri).delete_run(first)
    spool.step(2, {"train/loss": 2.0})
    report = uploader.stop(60)

    assert report.run_id not in (None, first)
    assert [step for step, _, _ in history(mlflow_server.uri, str(report.run_id), "train/loss")] == [1, 2]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_finish_closes_the_run_and_the_next_attempt_opens_it(
    mlflow_server: MlflowServer, tmp_path: Path, status: TerminalStatus
) -> None:
    settings = settings_for(mlflow_server.uri)
    client = client_of(mlflow_server.uri)
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"png")
    spool = Spool(tmp_path / "spool", 1)
    spool.step(1, {"train/loss": 1.0})
    spool.artifact(picture, "results")

    report = finish(tmp_path, None, settings, status)

    assert report.sent == 2 and report.remaining == 0 and report.status_set
    assert report.run_id is not None
    run = client.get_run(report.run_id)
    assert run.info.status == status and run.info.end_time >= run.info.start_time
    assert [file.path for file in client.list_artifacts(report.run_id, "results")] == ["results/grid.png"]
    Spool(tmp_path / "spool", 2).begin(1)
    assert upload_all(tmp_path, settings) == report.run_id
    assert client.get_run(report.run_id).info.status == "RUNNING"


def test_finish_without_a_server_ends_in_time_and_saves_the_rest(
    tcp_gate: TcpGate, tmp_path: Path, dictionary_store: DictionaryStore
) -> None:
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})
    settings = settings_for(tcp_gate.uri)

    before = time.monotonic()
    report = finish(tmp_path, dictionary_store, settings, "KILLED", timeout=1.0)

    assert time.monotonic() - before < 3
    assert (report.sent, report.remaining, report.run_id, report.status_set) == (0, 1, None, False)
    assert len(dictionary_store.list("spool/attempt-1/")) == 1


def test_jobs_of_a_sweep_lie_below_one_run_that_is_open_while_they_are(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    one = replace(settings_for(mlflow_server.uri), sweep="rates")
    other = replace(one, job_uid=f"{one.job_uid}-2", run_name="another run")
    client, children = client_of(mlflow_server.uri), []
    for name, settings in (("1", one), ("2", other)):
        Spool(tmp_path / name / "spool", 1).step(1, {"train/loss": 1.0})
        children.append(client.get_run(upload_all(tmp_path / name, settings)))

    (parent_id,) = {child.data.tags["mlflow.parentRunId"] for child in children}
    assert len(client.search_runs([children[0].info.experiment_id])) == 3
    assert client.get_run(parent_id).info.run_name == "rates"
    statuses = []
    for name, settings in (("1", one), ("2", other)):
        finish(tmp_path / name, None, settings, "FAILED")
        statuses.append(client.get_run(parent_id).info.status)
    assert statuses == ["RUNNING", "FINISHED"]


def test_of_two_runs_of_a_sweep_the_oldest_wins(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = replace(settings_for(mlflow_server.uri), sweep="rates")
    client = client_of(mlflow_server.uri)
    experiment = client.create_experiment(settings.experiment)
    younger, older = (
        client.create_run(experiment, start_time=start, tags={"unimrg.sweep": "rates"}).info.run_id
        for start in (2000, 1000)
    )
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})

    child = client.get_run(upload_all(tmp_path, settings))

    assert child.data.tags["mlflow.parentRunId"] == older
    assert client.get_run(younger).info.status == "KILLED"
