"""Stand-in for the engine in tests of the launcher: a real rank process whose work is one of a few short scripts.

`python -m tests.support.fake_rank SCRIPT…` with one script per rank, the last one for all further ranks.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted
from unimrg_api.progress import Progress
from unimrg_trainer.launch.rank import run
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.sections import SectionFile

LIMIT_SECONDS = 60.0


def wait(env: PodEnvironment, stop: StopRequest) -> None:
    """Work until asked to stop."""
    give_up = time.monotonic() + LIMIT_SECONDS
    while not stop.requested and time.monotonic() < give_up:
        time.sleep(0.02)
    raise Interrupted("stopped after step 7; a checkpoint was saved")


def slow_commit(env: PodEnvironment, stop: StopRequest) -> None:
    """Need a second longer than others after the request, as a rank that writes the commit does."""
    try:
        wait(env, stop)
    except Interrupted:
        time.sleep(1.0)
        (env.run_dir / "committed").write_text("7")
        raise


def deaf(env: PodEnvironment, stop: StopRequest) -> None:
    """Ignore requests to stop."""
    time.sleep(LIMIT_SECONDS)


def done(env: PodEnvironment, stop: StopRequest) -> None:
    """Finish at once, noting what the launcher set."""
    (env.run_dir / f"threads-{os.environ['RANK']}").write_text(os.environ["OMP_NUM_THREADS"])


def stuck(env: PodEnvironment, stop: StopRequest) -> None:
    """Report one step once all ranks are up, and then nothing."""
    if os.environ["RANK"] == "0":
        while len(list(env.run_dir.glob("up-*"))) < env.processes:
            time.sleep(0.02)
        progress = Progress(stage="train", step=3, total_steps=9, updated=time.time())
        (env.run_dir / "progress.json").write_text(progress.to_json())
    SectionFile(env.run_dir, int(os.environ["RANK"])).enter("step" if os.environ["RANK"] == "0" else "fetch", 3)
    waiting_for_a_step_that_never_comes()


def waiting_for_a_step_that_never_comes() -> None:
    """A name to find in the stacks."""
    time.sleep(LIMIT_SECONDS)


def hung_peer(env: PodEnvironment, stop: StopRequest) -> None:
    """Wait in a collective for a rank that is gone."""
    os.kill(os.getpid(), signal.SIGSTOP)


def crash(env: PodEnvironment, stop: StopRequest) -> None:
    """End in native code, without a record."""
    os.kill(os.getpid(), signal.SIGABRT)


SCRIPTS: dict[str, Callable[[PodEnvironment, StopRequest], None]] = {
    script.__name__: script for script in (wait, slow_commit, deaf, done, stuck, hung_peer, crash)
}

if __name__ == "__main__":
    rank, names = int(os.environ["RANK"]), sys.argv[1:]

    def work(env: PodEnvironment, stop: StopRequest) -> None:
        (env.run_dir / f"up-{rank}").write_text(str(os.getpid()))
        SCRIPTS[names[min(rank, len(names) - 1)]](env, stop)

    run(work)
