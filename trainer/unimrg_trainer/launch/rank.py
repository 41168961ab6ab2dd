"""One rank process: it is killed when its launcher ends, handles signals, runs a stage's engine, writes its result.

`python -m unimrg_trainer.launch.rank prepare|train|evaluate`. The order matters: signals first, slow imports after.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch import exit_records
from unimrg_trainer.launch.logs import FORMAT
from unimrg_trainer.launch.signals import StopRequest

logger = logging.getLogger(__name__)

STACKS_SIGNAL = signal.SIGUSR1
"""On this signal a rank writes the Python stacks of all threads to its log."""
BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT, STACKS_SIGNAL)
"""Blocked by the launcher before it starts a rank; the kernel delivers them once the rank can handle them."""
PARENT_VARIABLE = "UNIMRG_LAUNCHER_PID"
"""Environment variable with the launcher's pid."""

_ENGINES = {
    "prepare": "unimrg_trainer.launch.preparing",
    "train": "unimrg_trainer.engine.train",
    "evaluate": "unimrg_trainer.engine.evaluate",
}
"""Engine module of each stage, imported by name so that the launcher does not import torch."""

_PR_SET_PDEATHSIG = 1

Engine = Callable[[PodEnvironment, StopRequest], None]


def run(engine: Engine) -> None:
    """Run `engine` as this rank and exit; never returns.

    The process exits without the interpreter's clean-up, because a thread that waits in a broken process group would
    block it for ever.
    """
    set_parent_death_signal(int(os.environ[PARENT_VARIABLE]))
    env = PodEnvironment.from_environ(os.environ)
    rank = int(os.environ["RANK"])
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr)
    faulthandler.enable(all_threads=True)
    faulthandler.register(STACKS_SIGNAL, all_threads=True, chain=False)
    stop = StopRequest(on_second=lambda: os._exit(int(ExitCode.INTERRUPTED_TWICE)))
    stop.install()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)

    result = exit_records.ExitResult(ExitCode.OK, "Completed")
    try:
        engine(env, stop)
    except BaseException as error:
        result = exit_records.result_from_error(error)
        if result.code == ExitCode.INTERRUPTED:
            logger.info("rank %d stopped: %s", rank, result.message)
        else:
            trace = None if isinstance(error, UserError) else error  # no traceback for a user's mistake
            logger.error("rank %d failed (%d): %s", rank, result.code, result.message, exc_info=trace)
    exit_records.write_exit(env.run_dir, rank, result)
    _exit_now(result.code)


def main(arguments: list[str]) -> None:
    """Run the engine of the stage that the first argument names."""
    stage = arguments[0]

    def engine(env: PodEnvironment, stop: StopRequest) -> None:
        from unimrg_api.load import parse_job  # here, so that its errors are recorded like any other

        job = parse_job(json.loads(env.spec))
        importlib.import_module(_ENGINES[stage]).main(env, job, stop)

    run(engine)


def set_parent_death_signal(parent: int) -> None:
    """Have this process killed (SIGKILL) when its parent ends; `parent` is the pid that started it.

    Ranks have sessions of their own, and one that survived its launcher could write a checkpoint during the next
    attempt. The kernel counts the *thread* that started a process as its parent, so ranks are started from the main
    thread. If the parent has died already, the process ends at once.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _exit_now(status: int) -> None:
    for child in multiprocessing.active_children():  # os._exit skips the clean-up that ends daemons
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
