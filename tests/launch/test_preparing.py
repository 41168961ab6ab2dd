"""Preparation by several processes and pods: together they make what one makes, and a death costs one shard."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_api.environment import PodEnvironment
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import parse_job
from unimrg_trainer.data.publication import folder_of
from unimrg_trainer.job_stores import wanted_digest
from unimrg_trainer.launch import stages
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.preparation import prepare
from unimrg_trainer.storage import LocalStore

SCENES = {"scenes": {"train": 700, "heldOut": 2, "imageSize": 32, "seed": 1}}
"""Four shards."""


def environment(folder: Path, processes: int = 1) -> PodEnvironment:
    folder.mkdir(exist_ok=True)
    data = {"sources": [SCENES], "shards": ["file://data"], "preparation": {"processes": processes}}
    env = local_environment(*tiny_job(folder, data=data), processes=1)
    return dataclasses.replace(env, termination_log=folder / "termination.json")


def run(env: PodEnvironment) -> ExitCode:
    return stages.execute("prepare", env, StopRequest()).code


def contents(folder: Path) -> dict[str, bytes]:
    store = LocalStore(folder / "data")
    return {key: store.get(key) for key, _ in store.list()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("one")
    assert run(environment(folder)) is ExitCode.OK
    return contents(folder)


def test_two_processes_make_what_one_makes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    env = environment(tmp_path, processes=2)
    assert run(env) is ExitCode.OK
    assert contents(tmp_path) == whole
    progress = read_progress(env.run_dir)
    assert (progress.stage, progress.step, progress.total_steps) == ("prepare", 702, 702)


def test_pods_make_what_one_makes_and_the_first_publishes(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "WAIT_SECONDS", 0.01)
    env = environment(tmp_path)
    first, second = (
        dataclasses.replace(env, nodes=2, node_rank=rank, run_dir=tmp_path / f"pod-{rank}") for rank in (0, 1)
    )
    assert run(second) is ExitCode.OK
    missing = set(whole) - set(contents(tmp_path))
    assert len([key for key in missing if key.endswith(".tar")]) == 2 and any("PUBLISHED" in key for key in missing)
    assert run(first) is ExitCode.OK
    assert contents(tmp_path) == whole


def test_a_killed_process_costs_its_shard_and_no_more(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, start = environment(tmp_path, processes=2), stages.worker_group.start
    data = tmp_path / "data"
    digest = wanted_digest(parse_job(json.loads(env.spec)), env)
    assert digest is not None
    # of the second's two shards it makes one; at the other, whose name a pipe has that nobody writes to, it waits
    pipe = data / folder_of(digest) / "heldOut" / "heldOut-000000.tar"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)

    def kill_the_second(group: Any) -> None:
        while not list(data.rglob("train-000001.tar.idx")):
            time.sleep(0.005)
        os.kill(group._workers[1].process.pid, signal.SIGKILL)

    def started(*arguments: Any, **named: Any) -> Any:
        group = start(*arguments, **named)
        threading.Thread(target=kill_the_second, args=[group], daemon=True).start()
        return group

    with monkeypatch.context() as patch:
        patch.setattr(stages.worker_group, "start", started)
        assert run(env) is ExitCode.KILLED
    pipe.unlink()
    left = contents(tmp_path)
    assert not any("PUBLISHED" in key for key in left) and left.items() <= whole.items()
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*.tar")}
    assert times and run(env) is ExitCode.OK
    assert contents(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times
