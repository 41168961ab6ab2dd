"""Answers for those who watch the operator: /healthz, /readyz and /metrics."""

from __future__ import annotations

import threading
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


class HealthServer:
    """Serves GET /healthz, /readyz and /metrics at one address, from threads of its own."""

    def __init__(self, address: str, controller: Controller, world: World, metrics: Metrics) -> None:
        """Bind to `address` (HOST:PORT). Raises UserError if that is no address or cannot be had."""
        host, separator, port = address.rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise UserError(f"{address!r} is no address to serve metrics at", remedy="write HOST:PORT")
        handler = type("_BoundHandler", (_Handler,), {"controller": controller, "world": world, "metrics": metrics})
        try:
            self._server = ThreadingHTTPServer((host.strip("[]"), int(port)), handler)
        except OSError as error:
            raise UserError(
                f"metrics cannot be served at {address}: {error.strerror or error}",
                remedy="give a free address with --metrics-address",
                exit_code=ExitCode.UNAVAILABLE,
            ) from error

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
    controller: Controller
    world: World
    metrics: Metrics
    timeout = 5

    def do_GET(self) -> None:
        status, body = HTTPStatus.OK, b""
        match self.path.partition("?")[0]:
            case "/metrics":
                body = self.metrics.text()
            case "/healthz":
                age = self.controller.age()
                status = HTTPStatus.OK if age < STUCK_SECONDS else HTTPStatus.SERVICE_UNAVAILABLE
                body = f"the slowest worker came around {age:.0f} s ago\n".encode()
            case "/readyz":
                behind = [f"{item}: {item.reason}\n" for item in self.world.reflectors() if not item.synced]
                status = HTTPStatus.SERVICE_UNAVAILABLE if behind else HTTPStatus.OK
                body = "".join(behind or ["all caches are in step\n"]).encode()
            case _:
                status, body = HTTPStatus.NOT_FOUND, b"no such page\n"
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)  # plain text, whatever else it is
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""
