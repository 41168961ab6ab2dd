"""The life of one pod: a thread that starts containers, waits for what they need and for their ends, and reports."""

from __future__ import annotations

import logging
import queue
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from urllib3.exceptions import HTTPError

from tests.support.kubelet.api import Api, ApiError, Object
from tests.support.kubelet.container import Container
from tests.support.kubelet.environment import container_environment
from tests.support.kubelet.references import NotYetError
from tests.support.kubelet.status import phase, pod_status
from tests.support.kubelet.volumes import container_folders, make_volumes

RETRY_SECONDS = 0.5
"""How often a container that cannot start yet is tried again."""
FIRST_BACK_OFF, LONGEST_BACK_OFF = 1.0, 300.0
"""Seconds before a container is started again; a real kubelet begins with 10."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a pod runs."""

    address: str
    """The pod's own."""
    host: str
    """The node's."""
    folder: Path
    """Volumes and file systems; it goes with the pod."""
    logs: Path
    image: Mapping[str, str]
    """The environment that every image has."""


class _EndingError(Exception):
    """The pod was asked to end."""


class _GoneError(Exception):
    """The pod's object, or its node, is gone: nothing is reported any more."""


class Pod:
    """Runs a pod; `terminate` and `abandon` may be called from any thread."""

    def __init__(self, api: Api, pod: Object, place: Place) -> None:
        self.pod = pod
        self.place = place
        self._api = api
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._restart_policy = pod["spec"]["restartPolicy"]
        self._started = time.time()
        self._conditions: dict[str, tuple[str, float]] = {}
        self._wishes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._deadline: float | None = None
        self._gone = False
        self._volumes: dict[str, Path] = {}
        self.init, self.main = (
            [self._container(spec) for spec in pod["spec"].get(kind, [])] for kind in ("initContainers", "containers")
        )
        pod["status"] |= {"podIP": place.address, "hostIP": place.host}

    @property
    def containers(self) -> list[Container]:
        """All containers, in the order of their start."""
        return [*self.init, *self.main]

    def start(self) -> None:
        """Let it live, in a thread of its own."""
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing of it runs any more."""
        self._thread.join()

    def terminate(self, grace: float) -> None:
        """End it: SIGTERM now, SIGKILL after `grace` seconds; a second wish can only shorten the time."""
        self._deadline = min(self._deadline or float("inf"), time.monotonic() + grace)
        self._wishes.put("terminate")

    def abandon(self) -> None:
        """Kill everything and report nothing more."""
        self._gone = True
        self._wishes.put("abandon")

    def _run(self) -> None:
        """Live until the pod's object is gone."""
        try:
            try:
                self._report()
                self._live()
                # It may have been asked to end while it ended: then its object waits for our word, too.
                while True:
                    self._take(None)
            except _EndingError:
                self._end()
        except _GoneError:
            pass
        finally:
            for container in self.containers:
                container.kill()
            shutil.rmtree(self.place.folder, ignore_errors=True)

    def _live(self) -> None:
        for container in self.init:
            while container.state.exit_code != 0:
                self._start(container)
                self._wait_for_end([container])
                if container.state.exit_code and self._restart_policy == "Never":
                    self._report()
                    return
                if container.state.exit_code:
                    self._restart([container])
        for container in self.main:
            self._start(container)
        while True:
            self._wait_for_end(self.main)
            again = [item for item in self.main if self._is_restarted(item)]
            if not again:
                self._report()
                return
            self._restart(again)
            for container in again:
                self._start(container)

    def _start(self, container: Container) -> None:
        root = self.place.folder / container.state.name
        while True:
            try:
                if not self._volumes:
                    self._volumes = make_volumes(self._api, self.pod, self.place.folder / "volumes")
                folders = container_folders(container.spec, self._volumes, root)
                environment = container_environment(
                    self._api, self.pod, container.spec, self.place.image, folders, root
                )
                break
            except NotYetError as error:
                self._wait_as(container, error.reason, error.message)
            except (ApiError, HTTPError, OSError) as error:
                self._wait_as(container, "ContainerCreating", str(error))
            self._take(RETRY_SECONDS)
        container.start(environment, folders)
        self._report()

    def _wait_as(self, container: Container, reason: str, message: str) -> None:
        state = container.state
        if (state.waiting_reason, state.waiting_message) != (reason, message):
            state.waiting_reason, state.waiting_message = reason, message
            self._report()

    def _wait_for_end(self, containers: list[Container]) -> None:
        """Return when none of them runs, or one has ended that has to be started again; each end is reported."""
        while any(item.state.running for item in containers) and not any(map(self._is_restarted, containers)):
            self._take(None)
            if any(item.state.running for item in containers):
                self._report()

    def _is_restarted(self, container: Container) -> bool:
        code = container.state.exit_code
        return code is not None and (
            self._restart_policy == "Always" or (code != 0 and self._restart_policy == "OnFailure")
        )

    def _restart(self, containers: list[Container]) -> None:
        for container in containers:
            container.restart_later()
        self._report()
        restarts = max(item.state.restarts for item in containers)
        end = time.monotonic() + min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2 ** (restarts - 1))
        while (left := end - time.monotonic()) > 0:
            self._take(left)

    def _take(self, seconds: float | None) -> None:
        """Wait for something to happen, at most so long; raises _EndingError or _GoneError if that was wished."""
        try:
            self._wishes.get(timeout=seconds)
        except queue.Empty:
            return
        if self._gone:
            raise _GoneError
        if self._deadline is not None:
            raise _EndingError

    def _end(self) -> None:
        for container in self.containers:
            container.signal(signal.SIGTERM)
        while any(item.state.running for item in self.containers):
            assert self._deadline is not None
            left = self._deadline - time.monotonic()
            if left <= 0:
                for container in self.containers:
                    container.kill()
                left = RETRY_SECONDS
            try:
                self._take(left)
            except _EndingError:
                continue
        self._report(ending=True)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self._api.persist("DELETE", self._path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def _report(self, ending: bool = False) -> None:
        if self._gone:
            raise _GoneError
        init, main = [item.state for item in self.init], [item.state for item in self.main]
        status = pod_status(
            init,
            main,
            pod_phase=phase(init, main, self._restart_policy, ending),
            started=self._started,
            now=time.time(),
            changed=self._conditions,
            address=self.place.address,
            host=self.place.host,
        )
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
        if self._api.patch(f"{self._path}/status", body) is None:
            _log.info("the pod is gone")
            self._gone = True
            raise _GoneError

    def _container(self, spec: Object) -> Container:
        return Container(
            spec, self.place.folder / spec["name"], self.place.logs, ended=lambda _: self._wishes.put("ended")
        )
