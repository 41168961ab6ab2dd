"""Ends a process when its parent dies, so that no rank outlives its launcher.

Ranks have sessions of their own: a signal to the launcher's process group does not reach them, and a rank that survived
its launcher could commit a checkpoint beside the next attempt.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def end_with_parent(parent: int) -> None:
    """Have this process killed (SIGKILL) when its parent ends; `parent` is the pid that started it.

    If the parent has died already, the process ends at once. The kernel counts the *thread* that started a process as
    its parent, so parents start children from their main thread. Without Linux a thread looks once per second.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent-death", daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
