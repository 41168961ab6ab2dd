"""One container: its program, its log, and what is known about it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.guarded import GuardedProcess
from tests.support.kubelet.api import Object
from tests.support.kubelet.environment import expanded
from tests.support.kubelet.status import MESSAGE_BYTES, ContainerState
from tests.support.kubelet.volumes import TERMINATION_LOG, in_folder


class Container:
    """Starts and signals the container of one spec, and says how it ended.

    `root` is its own file system, its logs lie in `logs`. `ended(self)` is called, from any thread, when it is over.
    """

    def __init__(self, spec: Object, root: Path, logs: Path, ended: Callable[[Container], None]) -> None:
        self.spec = spec
        self.state = ContainerState(spec["name"], spec.get("image", ""))
        self._root = root
        self._logs = logs
        self._ended = ended
        self._process: GuardedProcess | None = None

    @property
    def log(self) -> Path:
        """What it has written."""
        return self._logs / f"{self.state.name}.log"

    def start(self, environment: Mapping[str, str], folders: Mapping[str, Path]) -> None:
        """Start its command; `folders` says where the container's paths lie."""
        (self._root / "tmp").mkdir(parents=True, exist_ok=True)
        self._termination = Path(in_folder(self.spec.get("terminationMessagePath", TERMINATION_LOG), folders))
        self._termination.write_bytes(b"")
        self.state.started = time.time()
        command = [expanded(part, environment) for part in self.spec.get("command", []) + self.spec.get("args", [])]
        if not self.spec.get("command"):
            self._report(128, "StartError", "no command: images have no entry point here")
        elif not shutil.which(command[0], path=environment["PATH"]):
            self._report(128, "StartError", f'exec: "{command[0]}": executable file not found in $PATH')
        else:
            place = Path(in_folder(self.spec.get("workingDir", ""), folders) or self._root)
            self._process = GuardedProcess(command, self.log, folder=place, environment=environment)
            self.state.process = self._process.pid
            threading.Thread(target=self._wait, args=(self._process,), daemon=True).start()

    def signal(self, number: int) -> None:
        """Send a signal to the main process; with SIGKILL all descendants go, too."""
        if self._process is not None:
            self._process.signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until every descendant is gone."""
        if self._process is not None:
            self._process.kill()

    def processes(self) -> list[int]:
        """Return the pids of all processes of the container."""
        if self._process is None or not self.state.running:
            return []
        parents = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()[1]
                )
            except OSError:
                continue
        found: set[int] = set()
        wanted = {self._process.guard}
        while wanted:
            wanted = {process for process, parent in parents.items() if parent in wanted}
            found |= wanted
        return sorted(found)

    def _wait(self, process: GuardedProcess) -> None:
        status = process.wait()
        assert status is not None
        code = 128 - status if status < 0 else status
        self._report(code, "Completed" if code == 0 else "Error", self._message())

    def _message(self) -> str:
        try:
            return self._termination.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
        except OSError:
            return ""

    def _report(self, code: int, reason: str, message: str) -> None:
        self.state.finished = time.time()
        self.state.reason, self.state.message = reason, message
        self.state.exit_code = code
        self._ended(self)
