"""Stands in for an API server that misbehaves: gives recorded answers by method and path, cuts them short, or hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

TOKEN = "token-that-nobody-may-see"
JOBS = "/apis/training.unimrg.dev/v1alpha1/namespaces/research/unimrgjobs"
PODS = "/api/v1/namespaces/research/pods"


@dataclass(frozen=True)
class Answer:
    """One answer. `cut`: the connection ends before the body does; `delay`: seconds before anything is said."""

    code: int = 200
    body: bytes | str | dict[str, Any] = b""
    cut: bool = False
    delay: float = 0.0

    @property
    def data(self) -> bytes:
        text = json.dumps(self.body) if isinstance(self.body, dict) else self.body
        return text.encode() if isinstance(text, str) else text


NOT_FOUND = Answer(404, "404 page not found\n")


def status(code: int, reason: str, message: str, **details: Any) -> Answer:
    """A refusal in the form that API servers give it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return Answer(code, {**body, "details": details, "code": code})


@dataclass
class StandIn:
    """Answers by `METHOD /path`, without the query: in turn, the last one again and again."""

    kubeconfig: Path
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, list[str]], bytes]] = field(default_factory=list)
    """Each request's `METHOD /path`, query and body."""

    def answer(self, request: str, *answers: Answer) -> None:
        self.answers[request] = list(answers)

    def next(self, request: str) -> Answer:
        waiting = self.answers.get(request, [NOT_FOUND])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@pytest.fixture
def api_stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """An API server's stand-in that knows nothing yet, and a kubeconfig for it with the namespace `research`."""
    stand_in = StandIn(tmp_path / "kubeconfig")
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            request = f"{self.command} {url.path}"
            stand_in.requests.append((request, parse_qs(url.query), body))
            answer = stand_in.next(request)
            over.wait(answer.delay)
            with suppress(OSError):  # who asked may have gone
                self.send_response(answer.code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.data) + (100 if answer.cut else 0)))
                self.end_headers()
                self.wfile.write(answer.data)
            self.close_connection = answer.cut or answer.delay > 0

        do_GET = do_POST = handle_any  # noqa: N815 - the names that the library looks for

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    write_kubeconfig(stand_in.kubeconfig, f"http://127.0.0.1:{server.server_port}")
    yield stand_in
    over.set()
    server.shutdown()
    server.server_close()


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
