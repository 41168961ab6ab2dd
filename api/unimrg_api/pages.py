"""Serves a few read-only pages over HTTP: the progress of a pod, the health of the operator."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

logger = logging.getLogger(__name__)

Page = Callable[[], tuple[int, str, bytes]]
"""Returns HTTP status, content type and content; called in a thread for every request."""


class PageServer(ThreadingHTTPServer):
    """Answers GET for each path of `pages` from threads of its own. Raises OSError if the address cannot be bound."""

    daemon_threads = True

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        """Bind to the address; port 0: any free one."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="pages", daemon=True)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and release the port."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds; a slower client is dropped
    server: PageServer

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, kind, content = (404, "text/plain", b"no such page\n") if page is None else page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # whoever asked may not have waited
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("%s %s", self.address_string(), format % args)
