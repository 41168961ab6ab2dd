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
from tests.support.kubelet.environment import NotYetError, container_environment
from tests.support.kubelet.status import pod_status
from tests.support.kubelet.volumes import container_folders, make_volumes

RETRY_SECONDS = 0.5
"""How often a container that cannot start yet is tried again."""
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
        self._started = time.time()
        self._conditions: dict[str, tuple[str, float]] = {}
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._deadline: float | None = None
        self._gone = False
        self._volumes: dict[str, Path] = {}
        self.containers = [
            Container(spec, place.folder / spec["name"], place.logs, ended=lambda _: self._requests.put("ended"))
            for spec in pod["spec"]["containers"]
        ]
        pod["status"] |= {"podIP": place.address, "hostIP": place.host}

    def start(self) -> None:
        """Run it in a thread of its own."""
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing of it runs any more."""
        self._thread.join()

    def terminate(self, grace: float) -> None:
        """End it: SIGTERM now, SIGKILL after `grace` seconds; a second request can only shorten the time."""
        self._deadline = min(self._deadline or float("inf"), time.monotonic() + grace)
        self._requests.put("terminate")

    def abandon(self) -> None:
        """Kill everything and report nothing more."""
        self._gone = True
        self._requests.put("abandon")

    def _run(self) -> None:
        """Run until the pod's object is gone."""
        try:
            try:
                self._report()
                for container in self.containers:
                    self._start(container)
                while any(item.state.running for item in self.containers):
                    self._take(None)
                    self._report()
                # It may have been asked to end while it ended: then its object waits for our report, too.
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

    def _start(self, container: Container) -> None:
        root = self.place.folder / container.state.name
        while True:
            try:
                if not self._volumes:
                    self._volumes = make_volumes(self.pod, self.place.folder / "volumes")
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

    def _take(self, seconds: float | None) -> None:
        """Wait for something to happen, at most so long; raises _EndingError or _GoneError if that was asked for."""
        try:
            self._requests.get(timeout=seconds)
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
        self._report()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self._api.persist("DELETE", self._path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def _report(self) -> None:
        if self._gone:
            raise _GoneError
        status = pod_status(
            [item.state for item in self.containers],
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
