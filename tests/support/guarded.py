"""A program that a test starts: it dies with the test process, however that ends, and takes all its children along."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")


class GuardedProcess:
    """One running program below a guard (`guard.py`); its output is appended to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # A session of its own: Ctrl-C on the terminal is for the test, which then ends what it started.
        self._guard = subprocess.Popen(
            [sys.executable, "-IS", str(_GUARD), str(log), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._asking, self._answers = self._guard.stdin, self._guard.stdout
        self.pid = int(self._answers.readline() or b"0")
        """The program's own pid; 0 if it could not be started."""
        self.guard = self._guard.pid
        """Pid of the guard: all processes of the program are its descendants, orphans too."""
        self._status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._wait_for_status, daemon=True).start()

    @property
    def status(self) -> int | None:
        """Its exit code, -N if signal N killed it, None while it or one of its descendants lives."""
        return self._status

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the status, or None if it still runs after so many seconds."""
        self._ended.wait(seconds)
        return self._status

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing happens if it has ended."""
        with contextlib.suppress(OSError, ValueError):
            self._asking.write(f"{int(number)}\n".encode())

    def kill(self) -> None:
        """SIGKILL for the program and everything below it; returns when they are gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, seconds: float = 10.0) -> int:
        """SIGTERM, SIGKILL after so many seconds; return the status."""
        self.signal(signal.SIGTERM)
        if self.wait(seconds) is None:
            self.kill()
        assert self._status is not None
        return self._status

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return as soon as it is ready; raises RuntimeError with the end of its log, and kills it, if that fails."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.status is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.log} is of a program that does not become ready:\n{self.last_lines()}")
            time.sleep(0.05)

    def last_lines(self, characters: int = 3000) -> str:
        """Return the end of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - characters))
            return log.read().decode(errors="replace")
        return ""

    def _wait_for_status(self) -> None:
        answer = self._answers.readline()
        self._guard.wait()
        self._asking.close()
        self._answers.close()
        # No answer: somebody killed the guard itself.
        self._status = int(answer) if answer else -signal.SIGKILL
        self._ended.set()
