"""Ties a process to the life of its parent, so that no rank outlives its launcher (seams.md §3).

torchrun starts ranks in sessions of their own: nothing that reaches the launcher's process group reaches
them, and a rank that survived its launcher could commit a checkpoint beside the next attempt. The
parent-death signal closes this: launcher dies → the kernel kills torchrun → the kernel kills the ranks.

As a program, `python -m unimrg_trainer.launch.tether PARENT COMMAND…` ties itself to PARENT and becomes
COMMAND: the setting survives exec, and no code has to run between fork and exec of a process that has
threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

PARENT_VARIABLE = "UNIMRG_PARENT_PID"
"""Tells a rank which process must still be its parent: torchrun, whose pid the program below knows before it
runs.
"""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def tether(parent: int | None) -> None:
    """Have this process SIGKILLed when its parent ends; without Linux, by a thread that looks every second.

    `parent` is the pid expected as parent: if it has died before the request took effect, the process ends at
    once. The kernel counts the *thread* that started this process as its parent, so parents start children
    from the main thread.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    else:
        threading.Thread(target=_watch, args=(os.getppid(),), name="tether", daemon=True).start()
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Tie this process to the first argument's pid and become the rest of the arguments."""
    parent, command = int(arguments[0]), list(arguments[1:])
    tether(parent)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
