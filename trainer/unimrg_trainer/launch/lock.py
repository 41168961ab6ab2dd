"""One local run per RUN folder: an flock, which the kernel releases when the process ends, so it is never stale."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.local import os_errors_as_storage_errors


@contextmanager
def run_lock(folder: Path, run: str | None = None) -> Iterator[None]:
    """Hold `folder`/lock; raises UserError if another process holds it, or if it cannot be written.

    `run` is the run's name in messages; None: the parent folder. Child processes do not inherit the descriptor, so an
    orphaned rank does not hold the lock.
    """
    path = folder / "lock"
    with os_errors_as_storage_errors("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise UserError(
                f"another `unimrg run` is using {run or folder.parent}: {holder or 'it has just started'}",
                remedy="wait for it, stop it, or choose another spec.checkpoint.uri",
                exit_code=ExitCode.UNAVAILABLE,
            ) from None
        os.ftruncate(descriptor, 0)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()}, started {started}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
