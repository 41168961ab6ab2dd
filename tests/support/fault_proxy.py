"""An HTTP proxy before an API server that fails as networks and loaded servers do, at moments drawn from a seed.

Refusals (409, 429 with Retry-After, 500), answers that are lost after the request was carried out, latency; of watches
events that are lost or come twice. A watch that lost one ends soon, and its successor is told 410: as where history was
compacted meanwhile, which is the one way in which an API server lets events be missed.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.support.api_stand_in import status_object

WATCH_SECONDS = 6
"""Watches end after so long, so that many are opened."""
RATES = {"409": 0.05, "429": 0.05, "500": 0.05, "lost": 0.05, "slow": 0.1, "410": 0.05, "drop": 0.05, "twice": 0.1}
"""Probability of each fault, per request or per event of a watch."""
_REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}


class FaultProxy:
    """Passes requests on to an API server at `target`, whose certificate is `authority`."""

    def __init__(self, target: str, authority: str, seed: int, rates: Mapping[str, float] = RATES) -> None:
        self._target = urlsplit(target)
        self._tls = ssl.create_default_context(cafile=authority)
        self._rates = dict(rates)
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._compacted: set[str] = set()
        """Paths of watches of which an event was lost."""
        self.unreachable = False
        """Nothing is answered and watches break off, all within WATCH_SECONDS."""
        self.injected: Counter[str] = Counter()
        self.uri = ""

    def hits(self, fault: str) -> bool:
        """Whether a fault strikes now."""
        with self._lock:
            struck = self._draw.random() < self._rates.get(fault, 0.0)
            self.injected[fault] += struck
            return struck

    def refusal(self, method: str, path: str, *, watch: bool) -> int:
        """Return the status by which a request is refused; 0: it is passed on."""
        if watch:
            with self._lock:
                compacted = path in self._compacted
                self._compacted.discard(path)
                self.injected["410"] += compacted
            if compacted or self.hits("410"):
                return 410
        if method != "GET" and self.hits("409"):
            return 409
        return 429 if self.hits("429") else 500 if self.hits("500") else 0

    def lose_history(self, path: str) -> None:
        """Let the next watch of a path be told that it is too old."""
        with self._lock:
            self._compacted.add(path)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the API server."""
        return http.client.HTTPSConnection(
            self._target.hostname or "", self._target.port or 443, timeout=60.0, context=self._tls
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        watch = "watch" in query
        if self.proxy.unreachable:
            self.close_connection = True
            return
        if self.proxy.hits("slow"):
            time.sleep(0.3)
        refusal = self.proxy.refusal(self.command, url.path, watch=watch)
        if refusal:
            self._refuse(refusal)
            return
        if watch:
            query["timeoutSeconds"] = str(WATCH_SECONDS)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        connection = self.proxy.connect()
        try:
            connection.request(self.command, f"{url.path}?{urlencode(query)}" if query else url.path, body, headers)
            answer = connection.getresponse()
            if watch and answer.status == 200:
                self._relay_watch(answer, url.path)
            else:
                self._relay(answer, answer.read())
        except OSError:  # who asked has gone, or the server has
            self.close_connection = True
        finally:
            connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - as http.server calls them

    def _refuse(self, code: int) -> None:
        content = json.dumps(status_object(code, _REASONS[code], "injected")).encode()
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _relay(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        if self.proxy.hits("lost"):
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _relay_watch(self, answer: http.client.HTTPResponse, path: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in answer:
            if self.proxy.hits("drop"):
                self.proxy.lose_history(path)
                continue
            if self.proxy.unreachable:
                self.close_connection = True
                return
            for _ in range(2 if self.proxy.hits("twice") else 1):
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        if self.proxy.unreachable:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fault_proxy(target: str, authority: str, seed: int, rates: Mapping[str, float] = RATES) -> Iterator[FaultProxy]:
    """A proxy for the length of the block."""
    proxy = FaultProxy(target, authority, seed, rates)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    proxy.uri = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        with suppress(OSError):
            server.shutdown()
            server.server_close()
