"""Free loopback ports for servers that tests start."""

from __future__ import annotations

import random
import socket

FIRST_PORT = 10000
LAST_PORT = 19999
"""Below the jobs' own ports (20000) and those that Linux gives to outgoing connections (32768), which could take one
between our look and the server's start."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on and that this process has not been given before."""
    # Not seeded: sessions that run side by side must not try the same ports.
    draw = random.SystemRandom()
    while True:
        port = draw.randint(FIRST_PORT, LAST_PORT)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
