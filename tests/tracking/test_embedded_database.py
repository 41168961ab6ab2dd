"""The embedded data base: killed while its tables are made, it is not there; then it is made anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until
from unimrg_trainer.tracking.embedded import ensure_database


def test_a_data_base_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    database = tmp_path / "run" / "mlflow.db"
    program = "import sys, pathlib, unimrg_trainer.tracking.embedded as e; e.ensure_database(pathlib.Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", program, str(database)])
    few_tables = 8192  # bytes
    wait_until(lambda: any(path.stat().st_size > few_tables for path in tmp_path.glob("run/.partial-*.db")), 120)
    process.kill()
    process.wait()
    assert not database.exists()
    ensure_database(database)
    client = MlflowClient(f"sqlite:///{database}")
    run = client.create_run(client.create_experiment("after the kill", (tmp_path / "artifacts").as_uri()))
    client.log_metric(run.info.run_id, "train/loss", 1.0, step=1)
    assert client.get_run(run.info.run_id).data.metrics == {"train/loss": 1.0}


def test_a_data_base_that_is_there_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"somebody else made it")
    ensure_database(database)
    assert database.read_bytes() == b"somebody else made it"
    assert list(tmp_path.iterdir()) == [database]
