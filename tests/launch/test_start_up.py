"""Signals that come while a program still imports what it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from tests.support.waiting import wait_until
from unimrg_api.exit_codes import ExitCode
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch.local import local_environment

SLOW = Path(__file__).parents[1] / "support" / "slow_import"


def code_after(
    signals: list[signal.Signals], module: str, command: list[str], folder: Path, environment: dict[str, str]
) -> int:
    """How a program ends that gets signals while it imports `module`."""
    began = folder / "began"
    paths = os.pathsep.join([str(SLOW), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **environment, "PYTHONPATH": paths, "SLOW_IMPORT": module, "SLOW_IMPORT_BEGAN": str(began)},
    )
    try:
        wait_until(began.exists)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.1)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_a_signal_while_unimrg_run_starts_interrupts_it(tmp_path: Path) -> None:
    file = tiny_job(tmp_path)[1]
    command = ["unimrg_cli.main", "run", str(file)]
    assert code_after([signal.SIGINT], "unimrg_trainer.launch.local", command, tmp_path, {}) == ExitCode.INTERRUPTED
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], ExitCode.INTERRUPTED), ([signal.SIGINT, signal.SIGINT], ExitCode.INTERRUPTED_TWICE)],
)
def test_a_signal_while_a_pod_starts_stands_in_its_termination_record(
    tmp_path: Path, signals: list[signal.Signals], code: ExitCode
) -> None:
    job, file = tiny_job(tmp_path)
    env = local_environment(job, file, None)
    env.run_dir.mkdir(parents=True)
    command = ["unimrg_trainer.launch.main", "check"]
    assert code_after(signals, "unimrg_trainer.launch.pod", command, tmp_path, env.to_environ()) == code
    assert TerminationRecord.parse(env.termination_log.read_bytes()).exit_code == code
