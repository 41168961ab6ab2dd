"""Runs the launcher's supervision of stand-in ranks, as a program that tests can signal and kill.

`python -m tests.support.launched RUN_DIR PROCESSES GRACE STALL SCRIPT…` ends with the stage's exit code and writes its
result to RUN_DIR/result.json.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_trainer.launch import worker_group
from unimrg_trainer.launch.classification import classify
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.reports import heartbeat
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.watchdog import Heartbeat, Watchdog


def launch(run_dir: Path, processes: int, grace: int, stall: int, scripts: list[str]) -> ExitResult:
    """Run the ranks to their end."""
    env = PodEnvironment(uid=str(run_dir), attempt="1", run_dir=run_dir, processes=processes, grace=grace)
    with StopRequest().installed() as stop:
        group = worker_group.start("tests.support.fake_rank", scripts, env, run_dir / "logs")
        end = worker_group.supervise(
            group,
            stop=stop,
            grace=grace,
            watchdog=Watchdog(stall, time.monotonic()),
            heartbeat=lambda: (
                heartbeat(run_dir) or Heartbeat("train", 0, time.monotonic())
            ),  # imports do not count here
        )
    return classify(end)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, filename=Path(sys.argv[1]) / "launcher.log")
    worker_group.FAILURE_GRACE_SECONDS = 3.0
    folder = Path(sys.argv[1])
    result = launch(folder, int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    sys.exit(int(result.code))
