"""Answers for those who watch the operator: /healthz, /readyz and /metrics."""

from __future__ import annotations

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.pages import PageServer
from unimrg_operator.app.controller import Controller
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.world import World

STUCK_SECONDS = 180.0
"""A worker that did not come around for so long hangs: every request has a time-out far below."""


def health_server(address: str, controller: Controller, world: World, metrics: Metrics) -> PageServer:
    """Bind a server of these pages to HOST:PORT. Raises UserError if that is no address or cannot be had."""
    host, separator, port = address.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UserError(f"{address!r} is no address to serve metrics at", remedy="write HOST:PORT")

    def healthz() -> tuple[int, str, bytes]:
        age = controller.age()
        text = f"the slowest worker came around {age:.0f} s ago\n"
        return 200 if age < STUCK_SECONDS else 503, "text/plain", text.encode()

    def readyz() -> tuple[int, str, bytes]:
        behind = [item for item in world.reflectors() if not item.synced]
        text = "".join(f"{item}: {item.reason}\n" for item in behind) or "all caches are in step\n"
        # A job may ask for a backend that this cluster has not: its status says so, and other jobs go on.
        return 200 if all(item.absent for item in behind) else 503, "text/plain", text.encode()

    pages = {"/healthz": healthz, "/readyz": readyz, "/metrics": lambda: (200, CONTENT_TYPE_LATEST, metrics.text())}
    try:
        return PageServer(host.strip("[]"), int(port), pages)
    except OSError as error:
        raise UserError(
            f"metrics cannot be served at {address}: {error.strerror or error}",
            remedy="give a free address with --metrics-address",
            exit_code=ExitCode.UNAVAILABLE,
        ) from error
