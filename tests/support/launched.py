"""Runs the launcher's supervision of a gang of stand-in ranks, as a program that tests can signal and kill.

`python -m tests.support.launched RUN_DIR PROCESSES GRACE STALL SCRIPT…`; its exit code is the verdict's. The
verdict is written to RUN_DIR/verdict.json.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_trainer.launch import torchrun
from unimrg_trainer.launch.reports import heartbeat
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.verdict import Verdict, judge
from unimrg_trainer.launch.watchdog import Watchdog


def launch(run_dir: Path, processes: int, grace: int, stall: int, scripts: list[str]) -> Verdict:
    """Run a gang to its end."""
    env = PodEnvironment(uid=str(run_dir), attempt="1", run_dir=run_dir, processes=processes, grace=grace)
    with StopRequest().installed() as stop:
        gang = torchrun.start("tests.support.fake_rank", scripts, env)
        outcome = torchrun.supervise(
            gang,
            stop=stop,
            grace=grace,
            watchdog=Watchdog(stall, time.monotonic()),
            heartbeat=lambda: heartbeat(run_dir) or time.monotonic(),  # imports do not count here
            stall_timeout=stall,
        )
    return judge(outcome)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    folder = Path(sys.argv[1])
    verdict = launch(folder, int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    (folder / "verdict.json").write_text(json.dumps(asdict(verdict)))
    sys.exit(int(verdict.code))
