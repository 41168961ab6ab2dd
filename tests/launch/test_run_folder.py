"""The folder of a run on this machine: where it is, and that what two trainings leave in it does not mix."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch import stages
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.local_folders import cache_folder, claim_folder, run_folder, state_folder, training_in
from unimrg_trainer.storage.base import StorageError

RUN = "s3://bucket/run"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without settings."""
    for name in ("UNIMRG_STATE", "UNIMRG_CACHE", "XDG_STATE_HOME", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_run_in_a_bucket_is_kept_where_nobody_clears_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_folder(RUN).is_relative_to(home / ".local" / "state" / "unimrg" / "runs")
    assert not run_folder(RUN).is_relative_to(cache_folder())
    monkeypatch.setenv("XDG_STATE_HOME", "/there")
    assert state_folder() == Path("/there/unimrg")
    monkeypatch.setenv("UNIMRG_STATE", "/here")
    assert state_folder() == Path("/here")
    assert run_folder("file:///a/run/") == Path("/a/run/local")


def test_what_another_training_left_is_set_aside_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    lasting = ("lock", "mlflow.db", "logs/launcher.log")
    own = (
        "spool/attempt-1/s.jsonl",
        "mlflow.json",
        "progress.json",
        "termination.json",
        "logs/attempt-1/train/rank-0.log",
    )
    for name in (*lasting, *own):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("first")
    assert not claim_folder(folder, "a"), "a folder of nobody is not another's"
    assert not claim_folder(folder, "a")
    assert all((folder / name).exists() for name in (*lasting, *own))
    for uid in ("b", "c"):
        (folder / "mlflow.json").write_text(uid)
        assert claim_folder(folder, uid)
        assert training_in(folder) == uid
        assert [name for name in (*lasting, *own) if (folder / name).exists()] == list(lasting)
    assert sorted(path.read_text() for path in folder.glob("earlier/*/mlflow.json")) == ["b", "c"]
    assert len(list(folder.glob("earlier/*/attempt-1/train/rank-0.log"))) == 1


def test_without_a_home_the_cache_is_temporary_and_state_is_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert run_folder("file:///a/run") == Path("/a/run/local")
    assert cache_folder() == Path(tempfile.gettempdir()) / f"unimrg-{os.getuid()}"
    with pytest.raises(UserError, match="set HOME, or UNIMRG_STATE"):
        run_folder(RUN)
    monkeypatch.setattr(Path, "home", lambda: Path("/dev/null"))
    assert cache_folder() == Path(tempfile.gettempdir()) / f"unimrg-{os.getuid()}", "a home that cannot be written"


def test_libraries_get_a_home_and_a_user_where_the_system_knows_none(tmp_path: Path) -> None:
    """MLflow does not work without a home. The program has neither variables nor an entry among the users."""
    script = (
        "import pathlib, os, getpass, pwd; from unimrg_trainer.local_folders import provide_home\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown; provide_home(); print(pathlib.Path.home().is_dir(), getpass.getuser())"
    )
    environment = {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path), "UNIMRG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["True", f"user-{os.getuid()}"]
    assert (tmp_path / "cache").is_dir()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "uid").mkdir()
    with pytest.raises(StorageError):
        claim_folder(tmp_path, "a")


def test_points_of_a_training_do_not_go_to_the_next_under_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise Interrupted

    monkeypatch.setattr(stages.worker_group, "start", start)
    job, file = tiny_job(tmp_path, checkpoint__uri="file://one")
    env = dataclasses.replace(local_environment(job, file, None), run_dir=tmp_path / "local")
    assert stages.execute("prepare", env, StopRequest()).code is ExitCode.OK
    uids = []
    for _ in range(2):
        end = stages.execute("train", dataclasses.replace(env, uid=uuid.uuid4().hex), StopRequest())
        assert end.env is not None
        uids.append(end.env.uid)
        assert training_in(env.run_dir) == end.env.uid
        assert read_progress(env.run_dir).mlflow_run_id is None
        (env.run_dir / "mlflow.json").write_text('{"run_id": "of the first", "url": "http://127.0.0.1:9"}')
        if len(uids) == 1:
            (tmp_path / "one").rename(tmp_path / "two")
    assert uids[0] != uids[1]
