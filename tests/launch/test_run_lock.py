"""Two runs of the same prefix on one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from unimrg_api.errors import UserError
from unimrg_trainer.launch.lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from unimrg_trainer.launch.lock import run_lock
with run_lock(Path(sys.argv[1])):
    sys.stdout.write("held\\n"); sys.stdout.flush()
    time.sleep(60)
"""


def can_lock(folder: Path) -> bool:
    try:
        with run_lock(folder):
            return True
    except UserError:
        return False


def test_a_run_at_work_is_named_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"{tmp_path.parent}: process {holder.pid}"), run_lock(tmp_path):
            pytest.fail("both runs got the lock")
        holder.kill()
    assert can_lock(tmp_path)


def test_a_program_that_the_run_starts_does_not_keep_the_lock(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        # the kernel closes descriptors a moment after the program has replaced ours
        wait_until(lambda: can_lock(tmp_path), seconds=5)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
