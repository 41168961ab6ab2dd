"""The few requests that a kubelet makes to the API server; they survive its restarts."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3

Object = dict[str, Any]
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """A refusal of the API server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Talks to the server of a kubeconfig (JSON, with a token) until it is `stopped`."""

    def __init__(self, kubeconfig: Path, stopped: threading.Event) -> None:
        self._stopped = stopped
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server = cluster["server"]
        self._headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        self._pool = urllib3.PoolManager(
            ca_certs=cluster["certificate-authority"], maxsize=32, retries=False, timeout=urllib3.Timeout(10.0)
        )

    def request(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        """Make one request; raises ApiError, or urllib3's HTTPError where no answer came."""
        answer = self._pool.request(
            method,
            self._server + path,
            body=json.dumps(body) if body is not None else None,
            headers={**self._headers, "Content-Type": kind},
        )
        result: Object = json.loads(answer.data)
        if answer.status >= 300:
            raise ApiError(answer.status, result.get("message", ""))
        return result

    def persist(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> Object | None:
        """Make a request until it is answered; None if its object is gone, or another has its name, or we stop."""
        while not self._stopped.is_set():
            try:
                return self.request(method, path, body, kind)
            except ApiError as error:
                if error.status in (404, 409):
                    return None
                _log.warning("%s %s: %s", method, path, error)
            except urllib3.exceptions.HTTPError as error:
                _log.warning("%s %s: %s", method, path, error)
            self._stopped.wait(0.5)
        return None

    def patch(self, path: str, body: Object) -> Object | None:
        """Apply a strategic merge patch until it is answered, as kubelets report."""
        return self.persist("PATCH", path, body, "application/strategic-merge-patch+json")

    def follow(self, path: str, put: Callable[[Object], None], listed: Callable[[list[Object]], None]) -> None:
        """List and watch: `listed` gets each full list, `put` each change {type, object} after it."""
        while not self._stopped.is_set():
            try:
                answer = self.request("GET", path)
                listed(answer["items"])
                for change in self._watch(path, answer["metadata"]["resourceVersion"]):
                    if change["type"] == "ERROR":
                        break
                    put(change)
            except (ApiError, urllib3.exceptions.HTTPError) as error:
                _log.warning("watch of %s: %s", path, error)
            self._stopped.wait(0.2)

    def _watch(self, path: str, version: str) -> Iterator[Object]:
        answer = self._pool.request(
            "GET",
            f"{self._server}{path}?watch=1&resourceVersion={version}",
            headers=self._headers,
            preload_content=False,
            # A watch is silent as long as nothing happens.
            timeout=urllib3.Timeout(connect=10.0, read=3600.0),
        )
        rest = b""
        for chunk in answer.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, filter(None, lines))
