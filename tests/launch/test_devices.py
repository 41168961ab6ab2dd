"""Which devices a job gets on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_trainer.launch import devices


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device files of a machine that has no GPU yet."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def job_for(folder: Path, gpus: int) -> UniMRGJob:
    return tiny_job(folder, trainer={"gpusPerNode": gpus, "processesPerNode": 1})[0]


def test_a_job_for_gpus_trains_on_the_cpu_where_there_is_none_and_says_so(machine: Path) -> None:
    job = job_for(machine, 8)
    fitted, line = devices.fit_to_machine(job, 2)
    assert (fitted.spec.trainer.gpus_per_node, fitted.spec.trainer.processes_per_node) == (0, 2)
    assert line is not None and "gpusPerNode is 8" in line and "CPU" in line
    assert fitted.training_digest("d") == job.training_digest("d")


def test_more_processes_than_gpus_are_refused(machine: Path) -> None:
    (machine / "nvidia0").touch()
    job = job_for(machine, 8)
    assert devices.fit_to_machine(job, None) == (job, None)
    with pytest.raises(UserError, match="2 processes need a GPU each, and this machine has 1"):
        devices.fit_to_machine(job, 2)
    on_cpus = job_for(machine, 0)
    assert devices.fit_to_machine(on_cpus, 8) == (on_cpus, None)
