"""An API server's stand-in for the operator: what it lists, watches and else asks for is answered from scripts."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client import Configuration

from tests.support.api_stand_in import HOLD, NOT_FOUND, Answer, Request, serving
from unimrg_operator.kube.client import Client


class ScriptedApi:
    """Lists, watches and everything else are answered from scripts of their own, in order.

    A list that is not in the script is answered like the last one, a watch that is not is held; anything else that is
    not gets 404.
    """

    def __init__(self) -> None:
        self.host = ""
        self.lists: deque[Answer] = deque()
        self.watches: deque[Answer] = deque()
        self.others: deque[Answer] = deque()
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._last_list = NOT_FOUND

    def client(self, *, silence_margin: float = 10.0) -> Client:
        """Return a client of this server."""
        configuration = Configuration()
        configuration.host = self.host
        return Client(configuration, silence_margin=silence_margin)

    def asked(self, method: str = "GET", *, watch: bool = False) -> list[Request]:
        """Return the requests of a kind."""
        with self._lock:
            found = [request for request in self.requests if request.method == method]
        return [request for request in found if ("watch" in request.query) == watch]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if request.method == "GET" and "watch" in request.query:
                return self.watches.popleft() if self.watches else Answer(stream=[HOLD])
            if request.method == "GET" and "limit" in request.query:
                if self.lists:
                    self._last_list = self.lists.popleft()
                return self._last_list
            return self.others.popleft() if self.others else NOT_FOUND


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    """A server for the length of the block."""
    api = ScriptedApi()
    with serving(api.answer) as port:
        api.host = f"http://127.0.0.1:{port}"
        yield api


def thing(name: str, version: int, **fields: Any) -> dict[str, Any]:
    """An object."""
    return {"metadata": {"name": name, "namespace": "lab", "resourceVersion": str(version)}, **fields}


def list_of(version: int, *items: dict[str, Any], more: str = "") -> Answer:
    """A page of a list."""
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return Answer(body={"kind": "List", "metadata": metadata, "items": list(items)})


def event(kind: str, item: dict[str, Any]) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"
