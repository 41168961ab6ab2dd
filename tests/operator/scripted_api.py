"""An HTTP server that answers like an API server, but only what a test wrote down; it keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client import Configuration

from unimrg_operator.kube.client import Client

HOLD = object()
"""In a stream: say nothing more and keep the connection open until the server stops."""
CUT = object()
"""In a stream: break the connection off without the end that HTTP asks for."""


@dataclass
class Answer:
    """One answer: JSON, or with `stream` the parts of a chunked body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    stream: list[Any] | None = None


@dataclass
class Request:
    """What was asked; the names of headers in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class ScriptedApi:
    """Lists, watches and everything else are answered from scripts of their own, in order.

    A list that is not in the script is answered like the last one, a watch that is not is held; anything else that is
    not gets 404.
    """

    def __init__(self, port: int) -> None:
        self.host = f"http://127.0.0.1:{port}"
        self.lists: deque[Answer] = deque()
        self.watches: deque[Answer] = deque()
        self.others: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._last_list = Answer(404)

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
            return self.others.popleft() if self.others else Answer(404, status_object(404, "NotFound"))


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    """A server for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    api = ScriptedApi(server.server_address[1])
    server.api = api  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield api
    finally:
        api.stopped.set()
        server.shutdown()
        server.server_close()


def kubeconfig(folder: Path, server: str) -> Path:
    """Return a kubeconfig of a server."""
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(config))
    return path


def status_object(code: int, reason: str, message: str = "", name: str = "") -> dict[str, Any]:
    """A Status as the API server sends it; with a name it is about one object."""
    details = {"name": name} if name else {}
    return {"kind": "Status", "code": code, "reason": reason, "message": message or reason, "details": details}


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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        api: ScriptedApi = self.server.api  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = api.answer(Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.stream is None:
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in answer.stream:
            if part is HOLD:
                api.stopped.wait()
            if part is HOLD or part is CUT:
                self.close_connection = True
                return
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - as http.server calls them

    def log_message(self, *_: object) -> None:
        """Say nothing."""
