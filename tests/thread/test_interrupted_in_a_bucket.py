"""Training over a real S3 server, interrupted and gone on with by pods that have nothing but the bucket: bit for bit
the training that nobody disturbed.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from tests.support.local_jobs import tiny_job
from tests.support.s3_stores import Place
from unimrg_api.environment import PodEnvironment
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import process_spec
from unimrg_trainer.checkpoint.discover import list_commits
from unimrg_trainer.checkpoint.reader import read_manifest, read_state
from unimrg_trainer.launch import stages
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.storage import ObjectStore

STEPS = 12
EVERY = 4
PATIENCE = 120.0


class NoUploader:
    """In place of the tracker's thread, which would load MLflow."""

    def __init__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None: ...


def pod(place: Place, folder: Path, run: str, attempt: int) -> PodEnvironment:
    """What a pod of a training under `run` is told; its disk is empty."""
    job, _ = tiny_job(
        folder,
        training__batch={"rowsPerObjective": 4, "cohortRows": 2, "microBatchRows": 1},
        training__optimizer={"learningRate": "1e-3"},
        training__schedule={"warmupSteps": 1, "totalSteps": STEPS},
        training__precision="FP32",
        data__shards=[f"{place.uri}/data"],
        checkpoint__uri=f"{place.uri}/{run}",
        checkpoint__everySteps=EVERY,
        checkpoint__keepLast=10,
        storage=place.storage.model_dump(by_alias=True, exclude_none=True),
        stages={"evaluate": {"mode": "Never"}},
    )
    disk = folder / f"{run}-{attempt}"
    disk.mkdir()
    return PodEnvironment(
        uid=f"uid-of-{run}",
        attempt=str(attempt),
        spec=process_spec(job),
        run_dir=disk / "run",
        cache=disk / "cache",
        termination_log=disk / "termination",
        processes=2,
        stall_timeout=60,
        grace=30,
    )


def stop_after_commit(run: ObjectStore, stop: StopRequest) -> threading.Thread:
    """Ask to stop as soon as something is committed."""

    def watch() -> None:
        end = time.monotonic() + PATIENCE
        while not list_commits(run) and time.monotonic() < end:
            time.sleep(0.05)
        stop.request("test")

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def newest(run: ObjectStore) -> tuple[int, dict[str, torch.Tensor]]:
    commit = list_commits(run)[0]
    state = read_state(run, commit, read_manifest(run, commit))
    return state.step, state.tensors


def test_a_training_that_goes_on_in_other_pods_ends_in_the_same_bits(
    s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "Uploader", NoUploader)
    undisturbed = pod(s3_place, tmp_path, "undisturbed", 1)
    assert stages.execute("prepare", undisturbed, StopRequest()).code is ExitCode.OK
    assert stages.execute("train", undisturbed, StopRequest()).code is ExitCode.OK

    run, stop = s3_place.store("run"), StopRequest()
    watcher = stop_after_commit(run, stop)
    first = stages.execute("train", pod(s3_place, tmp_path, "run", 1), stop)
    watcher.join()
    assert first.code is ExitCode.INTERRUPTED, first.record
    interrupted_at = list_commits(run)[0].step
    assert EVERY <= interrupted_at < STEPS
    second = stages.execute("train", pod(s3_place, tmp_path, "run", 2), StopRequest())
    assert second.code is ExitCode.OK, second.record

    log = (tmp_path / "run-2" / "run" / "logs" / "attempt-2" / "train" / "rank-0.log").read_text()
    assert f"resumed from step {interrupted_at}" in log
    step, tensors = newest(run)
    assert step == STEPS
    expected = newest(s3_place.store("undisturbed"))[1]
    assert tensors.keys() == expected.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []
