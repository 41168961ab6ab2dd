"""Serves `kubectl logs`: GET /containerLogs/NAMESPACE/POD/CONTAINER over HTTPS."""

from __future__ import annotations

import collections
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.kubelet.container import Container
from tests.support.kubelet.pods import Pod

_POLL_SECONDS = 0.1


class LogServer:
    """Listens on a free port until it is closed. `find(namespace, pod)` returns a pod that runs."""

    def __init__(self, host: str, certificate: Path, key: Path, find: Callable[[str, str], Pod | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _answer(self, find)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing: what is asked here is no event."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _answer(request: BaseHTTPRequestHandler, find: Callable[[str, str], Pod | None]) -> None:
    address = urlsplit(request.path)
    options = {name: values[0] for name, values in parse_qs(address.query).items()}
    match address.path.strip("/").split("/"):
        case ["containerLogs", namespace, name, container_name]:
            pod = find(namespace, name)
            found = [item for item in pod.containers if item.state.name == container_name] if pod else []
        case _:
            found = []
    if not found:
        request.send_error(404, "no such container here")
        return
    container = found[0]
    log = container.log
    if not log.exists():
        request.send_error(404, "the container has no log yet")
        return
    request.send_response(200)
    request.send_header("Content-Type", "text/plain")
    request.end_headers()
    follow = options.get("follow") == "true"
    try:
        for data in _contents(log, int(options.get("tailLines", -1)), container if follow else None):
            request.wfile.write(data)
            request.wfile.flush()
    except OSError:  # the reader has gone
        return


def _contents(log: Path, tail: int, followed: Container | None) -> Iterator[bytes]:
    with log.open("rb") as file:
        if tail >= 0:
            yield b"".join(collections.deque(file, maxlen=tail))
        while True:
            # Before reading: what is written until the end is read then.
            over = followed is None or not followed.state.running
            while data := file.read(1 << 16):
                yield data
            if over:
                return
            time.sleep(_POLL_SECONDS)
