"""Stands in for an API server: gives the answers that a test wrote down, cuts them short, or hangs."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

TOKEN = "token-that-nobody-may-see"
JOBS = "/apis/training.unimrg.dev/v1alpha1/namespaces/research/unimrgjobs"
PODS = "/api/v1/namespaces/research/pods"

HOLD = object()
"""In a stream: say nothing more and keep the connection open until the server stops."""
CUT = object()
"""In a stream: break the connection off without the end that HTTP asks for."""


@dataclass(frozen=True)
class Answer:
    """One answer: a body, or with `stream` the parts of a chunked one."""

    code: int = 200
    body: Any = b""
    """Bytes, a text, or a value that is sent as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Sequence[Any] | None = None
    cut: bool = False
    """Whether the connection ends before the body does."""
    delay: float = 0.0
    """Seconds before anything is said."""

    @property
    def data(self) -> bytes:
        text = self.body if isinstance(self.body, bytes | str) else json.dumps(self.body)
        return text.encode() if isinstance(text, str) else text


@dataclass(frozen=True)
class Request:
    """What was asked; the names of headers in small letters, the body parsed."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


NOT_FOUND = Answer(404, "404 page not found\n")


def status_object(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    """A Status as API servers send it; with a name in its details it is about one object."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message or reason}
    return {**body, "details": details, "code": code}


def refusal(code: int, reason: str, message: str = "", **details: Any) -> Answer:
    """A refusal in the form that API servers give it."""
    return Answer(code, status_object(code, reason, message, **details))


@contextmanager
def serving(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer requests on the loopback port that is given, for the length of the block."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {key.lower(): value for key, value in self.headers.items()}
            asked = Request(self.command, url.path, dict(parse_qsl(url.query)), headers, json.loads(body or "null"))
            found = answer(asked)
            over.wait(found.delay)
            with suppress(OSError):  # who asked may have gone
                self.send_response(found.code)
                for key, value in found.headers.items():
                    self.send_header(key, value)
                self.send_whole(found) if found.stream is None else self.send_parts(found.stream)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - as http.server calls them

        def send_whole(self, found: Answer) -> None:
            self.send_header("Content-Length", str(len(found.data) + (100 if found.cut else 0)))
            self.end_headers()
            self.wfile.write(found.data)
            self.close_connection = found.cut or found.delay > 0

        def send_parts(self, parts: Sequence[Any]) -> None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in parts:
                if part is HOLD:
                    over.wait()
                if part is HOLD or part is CUT:
                    self.close_connection = True
                    return
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@dataclass
class StandIn:
    """Answers by `METHOD /path`, without the query: in turn, the last one again and again."""

    kubeconfig: Path
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def answer(self, request: str, *answers: Answer) -> None:
        self.answers[request] = list(answers)

    def next(self, request: Request) -> Answer:
        self.requests.append(request)
        waiting = self.answers.get(f"{request.method} {request.path}", [NOT_FOUND])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@pytest.fixture
def api_stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """An API server's stand-in that knows nothing yet, and a kubeconfig for it with the namespace `research`."""
    stand_in = StandIn(tmp_path / "kubeconfig")
    with serving(stand_in.next) as port:
        write_kubeconfig(stand_in.kubeconfig, f"http://127.0.0.1:{port}")
        yield stand_in


def write_kubeconfig(file: Path, server: str, user: dict[str, Any] | None = None) -> None:
    """Write a kubeconfig with the context `lab`, which has the namespace `research`."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "ada", "user": {"token": TOKEN} if user is None else user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "ada", "namespace": "research"}}],
    }
    file.write_text(json.dumps(content))
