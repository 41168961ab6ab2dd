"""A TCP relay before a real server that refuses, passes, swallows or breaks off: outages without restarts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port


class TcpGate:
    """Closed at first (nobody listens); `open` relays to `target`, `swallow` accepts and never answers."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        assert address.hostname is not None
        self._target = (address.hostname, address.port or 80)
        self._port = free_port()
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._relays = True
        self.uri = f"http://127.0.0.1:{self._port}"
        self.accepted = 0
        """Connections that were made to it."""
        self.broken = 0
        """Answers that were broken off."""
        self._breaks = 0
        self._break_after = 0
        self._silently = False

    def open(self) -> None:
        """Listen and relay."""
        self._relays = True
        self._listen()

    def swallow(self) -> None:
        """Listen, take everything and never answer."""
        self._relays = False
        self._listen()

    def break_answers(self, count: int, after: int, *, silently: bool = False) -> None:
        """Break off the next `count` answers behind `after` bytes: the connection is cut, or nothing more comes."""
        self._break_after, self._silently, self._breaks = after, silently, count

    def close(self) -> None:
        """Stop listening and cut all connections."""
        if self._listener is not None:
            # shutdown wakes the thread that waits in accept.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections = []

    def _listen(self) -> None:
        self.close()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._connections.append(client)
            if self._relays:
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                self._connections.append(server)
                for pump, source, sink in ((_pump, client, server), (self._pump_answers, server, client)):
                    threading.Thread(target=pump, args=(source, sink), daemon=True).start()

    def _pump_answers(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self._breaks and passed + len(data) > self._break_after:
                    self._breaks -= 1
                    self.broken += 1
                    client.sendall(data[: self._break_after - passed])
                    if self._silently:
                        return
                    break
                passed = passed + len(data) if self._breaks else 0
                client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def tcp_gate(mlflow_server: MlflowServer) -> Iterator[TcpGate]:
    """A relay in front of the shared MLflow server, closed at first."""
    gate = TcpGate(mlflow_server.uri)
    yield gate
    gate.close()
