"""`unimrg run` of a job under other strategies, on 2, 4 and 1 processes: the end is that of a run that kept to one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.local_jobs import tiny_job
from tests.support.train_stage import newest
from unimrg_api.spec_platform import StrategyName
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.storage import LocalStore

pytestmark = pytest.mark.slow


def run(folder: Path, strategy: StrategyName, processes: int, stop_step: int) -> str:
    """Run the job up to `stop_step`; return its training digest."""
    folder.mkdir(exist_ok=True)
    job, file = tiny_job(
        folder,
        model__harmon__dropout="0",
        training__batch={"rowsPerObjective": 8, "cohortRows": 2, "microBatchRows": 2},
        training__optimizer={"learningRate": "1e-3", "epsilon": "1e-4"},
        training__precision="FP32",
        training__stopStep=stop_step,
        trainer={"gpusPerNode": 0, "processesPerNode": processes, "strategy": strategy},
        stages={"evaluate": {"mode": "Never"}},
    )
    ended = subprocess.run([sys.executable, "-m", "unimrg_cli.main", "run", str(file)], timeout=200)
    assert ended.returncode == 0
    return job.training_digest(Dataset.open(LocalStore(folder / "data"), "train").digest)


@pytest.mark.timeout(600)
def test_a_job_goes_on_under_another_strategy_on_2_4_and_1_processes(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "ZeRO2", 2, 6)
    in_turn: list[tuple[StrategyName, int]] = [("DDP", 2), ("FSDP2", 4), ("ZeRO1", 1)]
    for number, (strategy, processes) in enumerate(in_turn, start=1):
        digest = run(tmp_path / "turns", strategy, processes, 2 * number)
    assert digest == whole
    store = LocalStore(tmp_path / "turns" / "run")
    manifests = [read_manifest(store, commit) for commit in list_commits(store)]
    kept = {manifest.step: (manifest.strategy, manifest.world_size) for manifest in manifests}
    assert kept == {2: ("DDP", 2), 4: ("FSDP2", 4), 6: ("ZeRO1", 1)}
    found, expected = newest(tmp_path / "turns" / "run", whole), newest(tmp_path / "whole" / "run", whole)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
