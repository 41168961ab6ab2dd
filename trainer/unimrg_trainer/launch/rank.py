"""One rank: what torchrun starts. Ties itself to its launcher, redirects its log, runs the engine and says
how it ended.

`python -m unimrg_trainer.launch.rank train|evaluate`. The order matters: first what makes the process
controllable, only then the imports that take seconds.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch import exit_records
from unimrg_trainer.launch.logs import FORMAT, rank_log
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.tether import PARENT_VARIABLE, tether

logger = logging.getLogger(__name__)

STACKS_SIGNAL = signal.SIGUSR1
"""Has a rank write the Python stacks of all its threads into its log."""

_ENGINES = {"train": "unimrg_trainer.engine.train", "evaluate": "unimrg_trainer.engine.evaluate"}
"""By name: the launcher knows no engine and no model, and what they import takes seconds."""

Work = Callable[[PodEnvironment, StopRequest], None]


def run(work: Work) -> None:
    """Run `work` as this rank and end the process; never returns.

    The process ends without the interpreter's clean-up: a thread that waits in a broken process group would
    hold it for ever. An interrupted rank tells torchrun success, for torchrun kills the other ranks 30 s
    after a failure and they may need longer for their commit; the launcher reads the record.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    tether(int(parent) if parent else None)
    env = PodEnvironment.from_environ(os.environ)
    rank = int(os.environ["RANK"])
    _redirect(rank_log(env, rank))
    faulthandler.enable(all_threads=True)
    faulthandler.register(STACKS_SIGNAL, all_threads=True, chain=False)
    stop = StopRequest(on_second=lambda: os._exit(int(ExitCode.INTERRUPTED_TWICE)))
    stop.install()
    exit_records.register(env.run_dir, rank)
    if exit_records.stop_was_asked(env.run_dir):
        stop.request("asked before the start")

    record = exit_records.RankExit(int(ExitCode.OK), "Completed")
    try:
        work(env, stop)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(ExitCode.PROGRAM) if error.code else 0
        record = exit_records.RankExit(code, "SystemExit", str(error.code or ""))
    except BaseException as error:
        record = exit_records.describe(error)
        if record.code == ExitCode.INTERRUPTED:
            logger.info("rank %d stopped: %s", rank, record.message)
        else:
            trace = None if isinstance(error, UserError) else error  # what the user can mend is no bug
            logger.error("rank %d failed (%d): %s", rank, record.code, record.message, exc_info=trace)
    exit_records.write_exit(env.run_dir, rank, record)
    _leave(0 if record.code == ExitCode.INTERRUPTED else record.code)


def main(arguments: list[str]) -> None:
    """Run the engine of the stage that the first argument names."""
    stage = arguments[0]

    def work(env: PodEnvironment, stop: StopRequest) -> None:
        from unimrg_api.load import parse_job  # here, so that its errors are recorded like any other

        job = parse_job(json.loads(env.spec))
        importlib.import_module(_ENGINES[stage]).main(env, job, stop)

    run(work)


def _redirect(path: Path) -> None:
    """Send both streams to the rank's log, also what C libraries write; set up logging to go there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr)


def _leave(status: int) -> None:
    for child in multiprocessing.active_children():  # daemons are ended by the clean-up that is skipped here
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
