"""Answers for those who watch the operator: /healthz, /readyz and /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_operator.app.controller import Controller
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.world import World

STUCK_SECONDS = 180.0
"""A worker that did not come around for so long hangs: every request has a time-out far below."""
_REQUEST_SECONDS = 5
_TEXT = "text/plain; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""


class HealthServer:
    """Serves GET /healthz, /readyz and /metrics at one address, from threads of its own."""

    def __init__(self, address: str, controller: Controller, world: World, metrics: Metrics) -> None:
        """Bind to `address` (HOST:PORT). Raises UserError if that is no address or cannot be had."""
        pages: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _healthz(controller),
            "/readyz": lambda: _readyz(world),
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics.text()),
        }
        handler = type("_BoundHandler", (_Handler,), {"pages": pages})
        host, separator, port = address.rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise UserError(f"{address!r} is no address to serve metrics at", remedy="write HOST:PORT")
        try:
            self._server = ThreadingHTTPServer((host.strip("[]"), int(port)), handler)
        except OSError as error:
            raise UserError(
                f"metrics cannot be served at {address}: {error.strerror or error}",
                remedy="give a free address with --metrics-address",
                exit_code=ExitCode.UNAVAILABLE,
            ) from error
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """The port that was got, for an address with port 0."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Callable[[], Answer]]
    timeout = _REQUEST_SECONDS

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        status, content_type, body = page() if page else (HTTPStatus.NOT_FOUND, _TEXT, b"no such page\n")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""


def _healthz(controller: Controller) -> Answer:
    age = controller.age()
    status = HTTPStatus.OK if age < STUCK_SECONDS else HTTPStatus.SERVICE_UNAVAILABLE
    return status, _TEXT, f"the slowest worker came around {age:.0f} s ago\n".encode()


def _readyz(world: World) -> Answer:
    behind = [f"{reflector}: {reflector.reason}" for reflector in world.reflectors() if not reflector.synced]
    if behind:
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "".join(f"{line}\n" for line in behind).encode()
    return HTTPStatus.OK, _TEXT, b"all caches are in step\n"
