"""The whole way from the spool into MLflow, with a real server and with a SQLite file."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.mlflow_server import MlflowServer
from tests.support.tcp_gate import TcpGate
from tests.support.uploads import client_of, history, settings_for, upload_all
from tests.support.waiting import wait_until
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.settings import sqlite_uri
from unimrg_trainer.tracking.spool import Spool
from unimrg_trainer.tracking.upload import SENT
from unimrg_trainer.tracking.uploader import Uploader, finish

TRAINING = """
import sys, time
from pathlib import Path
from unimrg_trainer.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]) / "spool", int(sys.argv[2]))
first, last = int(sys.argv[3]), int(sys.argv[4])
spool.begin(first - 1)
for step in range(first, last + 1):
    spool.step(step, {"train/loss": 1 / step, "perf/step_s": time.time()})
sys.stdout.write("done\\n")
sys.stdout.flush()
time.sleep(60 if sys.argv[5] == "hang" else 0)
"""


@pytest.fixture(params=["server", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A tracking server, and a SQLite file without one."""
    if request.param == "sqlite":
        folder = tmp_path / "what? 100%20 #1"
        folder.mkdir()
        return sqlite_uri(folder / "mlflow.db")
    server: MlflowServer = request.getfixturevalue("mlflow_server")
    return server.uri


def test_shipping_everything_twice_leaves_every_point_once(uri: str, tmp_path: Path) -> None:
    settings = settings_for(uri)
    spool = Spool(tmp_path / "spool", 1)
    spool.begin(0)
    spool.params({"training.seed": 42})
    for step in range(1, 301):
        spool.step(step, {"train/loss": 1 / step, "optim/lr": 0.1, "perf/step_s": 1.0, "train/odd": math.nan})
    run_id = upload_all(tmp_path, settings)
    for tag in client_of(uri).get_run(run_id).data.tags:
        if tag.startswith(SENT):
            client_of(uri).delete_tag(run_id, tag)

    assert upload_all(tmp_path, settings) == run_id

    points = history(uri, run_id, "train/loss")
    assert [(step, value) for step, value, _ in points] == [(step, 1 / step) for step in range(1, 301)]
    assert len(client_of(uri).get_metric_history(run_id, "train/odd")) == 300
    run = client_of(uri).get_run(run_id)
    assert run.data.params == {"training.seed": "42"}
    assert run.info.run_name == "a run" and run.info.status == "RUNNING"
    assert len(client_of(uri).search_runs([run.info.experiment_id])) == 1


def test_a_killed_and_resumed_job_is_one_run_with_every_point_once(uri: str, tmp_path: Path) -> None:
    settings = settings_for(uri)

    def train(attempt: int, first: int, last: int, then: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAINING, str(tmp_path), str(attempt), str(first), str(last), then]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        return process

    killed = train(1, 1, 8, "hang")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    first_id = upload_all(tmp_path, settings)
    train(2, 6, 12, "end").wait()  # the last commit was that of step 5
    second_id = upload_all(tmp_path, settings)

    assert first_id == second_id
    points = history(uri, first_id, "train/loss")
    assert [(step, value) for step, value, _ in points] == [(step, 1 / step) for step in range(1, 13)]
    assert len(history(uri, first_id, "perf/step_s")) == 12
    stamps = [stamp for _, _, stamp in points]
    assert stamps == sorted(stamps)
    tags = client_of(uri).get_run(first_id).data.tags
    assert tags["unimrg.attempt"] == "2"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, after step 5", tags["unimrg.attempt.2"])


def test_a_server_that_dies_in_mid_run_loses_nothing(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = settings_for(mlflow_server.uri)
    spool = Spool(tmp_path / "spool", 1)
    uploader = Uploader(tmp_path, settings, first_wait=0.05, poll_seconds=0.05)
    uploader.start()
    spool.step(1, {"train/loss": 1.0})
    wait_until(lambda: uploader.report().remaining == 0 and uploader.report().sent == 1)
    mlflow_server.kill()
    try:
        for step in range(2, 101):
            spool.step(step, {"train/loss": float(step)})
        wait_until(lambda: uploader.report().problem != "")
        remaining_without_server = uploader.report().remaining
    finally:
        mlflow_server.start()  # the same data base on the same port; the other tests go on with it
    report = uploader.stop(60)

    assert remaining_without_server == 99
    assert report.run_id is not None and report.remaining == 0
    points = history(mlflow_server.uri, report.run_id, "train/loss")
    assert [step for step, _, _ in points] == list(range(1, 101))
    assert (report.problem, report.exit_code) == ("", ExitCode.OK)
    known = json.loads((tmp_path / "mlflow.json").read_text())
    assert (known["run_id"], known["problem"]) == (report.run_id, "")
    assert known["url"].endswith(f"/runs/{report.run_id}?workflowType=machine_learning")


def test_a_server_that_swallows_requests_does_not_hold_up_the_end(tcp_gate: TcpGate, tmp_path: Path) -> None:
    tcp_gate.swallow()
    Spool(tmp_path / "spool", 1).step(1, {"train/loss": 1.0})
    uploader = Uploader(tmp_path, settings_for(tcp_gate.uri))
    uploader.start()
    wait_until(lambda: tcp_gate.accepted > 0)

    before = time.monotonic()
    report = uploader.stop(0.5)

    assert time.monotonic() - before < 2
    assert report.remaining == 1


def test_a_changed_parameter_keeps_its_value_and_becomes_a_tag(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    settings = settings_for(mlflow_server.uri)
    note = "abcdef " * 1000  # longer than the server keeps
    Spool(tmp_path / "spool", 1).params({"seed": 42, "rate": "1e-5", "note": note})
    run_id = upload_all(tmp_path, settings)
    Spool(tmp_path / "spool", 2).params({"seed": 43, "rate": "1e-5", "note": note, "more": 1})
    upload_all(tmp_path, settings)

    data = client_of(mlflow_server.uri).get_run(run_id).data

    assert data.params == {"seed": "42", "rate": "1e-5", "note": note[:6000], "more": "1"}
    assert {name: value for name, value in data.tags.items() if name.startswith("param_change")} == {
        "param_change.2.seed": "42 → 43"
    }


def test_what_the_server_refuses_holds_nothing_else_up(
    mlflow_server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, results = tmp_path / "grid.png", tmp_path / "summary.json"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    results.write_text("{}")
    spool = Spool(tmp_path / "spool", 1)
    spool.step(1, {"train/acc@1": 1.0, "train/loss": 21.0})
    spool.params({"bad(name)": 1, "good": 2})
    spool.image(broken, "samples", 1)
    spool.artifact(results)

    run_id = upload_all(tmp_path, settings_for(mlflow_server.uri))

    client = client_of(mlflow_server.uri)
    data = client.get_run(run_id).data
    assert (data.metrics, data.params) == ({"train/loss": 21.0}, {"good": "2"})
    assert [file.path for file in client.list_artifacts(run_id)] == ["summary.json"]
    said = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert [text.split("refuses ")[1].split(",")[0] for text in said] == [
        "param bad(name)",
        "point train/acc@1",
        "the file grid.png",
    ]


def test_without_a_server_nothing_is_left_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    results = tmp_path / "summary.json"
    results.write_text("{}")
    spool = Spool(tmp_path / "run/local/spool", 1)
    spool.artifact(results, "results")
    settings = settings_for(f"sqlite:///{tmp_path}/run/mlflow.db")

    report = finish(tmp_path / "run/local", None, settings, "FINISHED")

    assert list(elsewhere.iterdir()) == []
    stored = list((tmp_path / "run/mlflow-artifacts").rglob("summary.json"))
    assert len(stored) == 1 and str(report.run_id) in str(stored[0])
    assert capfd.readouterr() == ("", "")


def test_a_folder_may_have_any_name_and_may_move(tmp_path: Path) -> None:
    from mlflow.tracking._tracking_service import utils as mlflow_utils

    results = tmp_path / "summary.json"
    results.write_text("{}")
    before, after = tmp_path / "what?/run", tmp_path / "my%20project #2/run"
    settings = settings_for(sqlite_uri(before / "mlflow.db"))
    Spool(before / "local/spool", 1).artifact(results, "first")
    run_id = upload_all(before / "local", settings)
    after.parent.mkdir()
    before.rename(after)
    mlflow_utils._artifact_repos_cache.clear()  # the next attempt is another process
    Spool(after / "local/spool", 2).artifact(results, "second")

    assert upload_all(after / "local", replace(settings, uri=sqlite_uri(after / "mlflow.db"))) == run_id

    client = client_of(sqlite_uri(after / "mlflow.db"))
    assert [file.path for file in client.list_artifacts(run_id)] == ["first", "second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my%20project #2", "summary.json", "what?"]
    assert list((tmp_path / "what?").iterdir()) == []
