"""The test's end of the kubelet: starts its process, and asks it for things that no API can do, such as node death."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import ControlPlane

_PROJECT = Path(__file__).parents[3]


class KubeletError(Exception):
    """What the kubelet could not do, or the end of its log if it is gone."""


class ProcessKubelet:
    """Plays any number of nodes; all their processes die with it, and it dies with the test process.

    `environment` is what the image would set: it stands in every container below what the pod says. Logs of containers
    stay in `FOLDER/logs/NAMESPACE/POD.NUMBER/`.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        nodes: Sequence[str] = ("node-0", "node-1"),
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder or control_plane.folder / "kubelet"
        self._control_plane = control_plane
        self._nodes = nodes
        self._environment = dict(environment or {})
        self.process: subprocess.Popen[str] | None = None
        """The kubelet's own process."""
        self._one_request = threading.Lock()

    def start(self) -> None:
        """Start it and register the nodes; returns when they are Ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not below the test's folder: paths of sockets (108 characters at most) lie in there.
        self._pods_folder = tempfile.mkdtemp(prefix="kubelet-")
        arguments = [str(self._control_plane.kubeconfig), str(self.folder), self._pods_folder]
        with (self.folder / "kubelet.log").open("ab") as log:
            # It ends when its standard input does: nobody else holds the other end of that pipe.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.kubelet", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_PROJECT,
                env={**os.environ, "PYTHONPATH": str(_PROJECT)},
                start_new_session=True,
            )
        self._ask("environment", values=self._environment)
        for name in self._nodes:
            self.add_node(name)

    def stop(self) -> None:
        """End it and everything that it runs, without a word to the API server."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()
            self.process = None
            # It does so itself unless it was killed.
            shutil.rmtree(self._pods_folder, ignore_errors=True)

    def add_node(
        self, name: str, *, cpu: int = 64, memory: str = "256Gi", gpus: int = 0, labels: Mapping[str, str] | None = None
    ) -> None:
        """Register one more node with a capacity that need not be there; returns when it is Ready."""
        self._ask("add_node", name=name, cpu=cpu, memory=memory, gpus=gpus, labels=dict(labels or {}))
        self._control_plane.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=30s")

    def kill_node(self, name: str) -> None:
        """Cut the power: its processes are gone, its lease is not renewed, nothing is reported any more."""
        self._ask("kill_node", name=name)

    def kill_container(
        self,
        pod: str,
        namespace: str,
        number: int = signal.SIGKILL,
        *,
        container: str | None = None,
        reason: str = "Error",
    ) -> None:
        """Send a signal to the main process of a container (the first that runs).

        SIGKILL takes all descendants along, and the container ends with 137. With reason `OOMKilled` it ends as if
        memory had run out.
        """
        self._ask(
            "kill_container", pod=pod, namespace=namespace, number=int(number), container=container, reason=reason
        )

    def processes(self, pod: str, namespace: str) -> list[int]:
        """Return the pids of all processes of a pod."""
        return [int(process) for process in self._ask("processes", pod=pod, namespace=namespace)]

    def _ask(self, do: str, **arguments: Any) -> Any:
        with self._one_request:
            if self.process is None:
                raise KubeletError("the kubelet does not run")
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            try:
                self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = ""
        if not answer:
            log = (self.folder / "kubelet.log").read_text(errors="replace")
            raise KubeletError(f"the kubelet has ended; the end of its log:\n{log[-3000:]}")
        result = json.loads(answer)
        if "error" in result:
            raise KubeletError(result["error"])
        return result["result"]


@pytest.fixture(scope="session")
def kubelet(control_plane: ControlPlane) -> Iterator[ProcessKubelet]:
    """The nodes node-0 and node-1 (64 CPUs, no GPU), on which all tests of a session run pods."""
    kubelet = ProcessKubelet(control_plane)
    kubelet.start()
    yield kubelet
    kubelet.stop()
