"""Free loopback ports for servers that tests start, and whether they answer."""

from __future__ import annotations

import random
import socket
import ssl
import urllib.error
import urllib.request

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


def http_status(url: str, token: str = "") -> int:
    """Return the status of the answer to a GET; 0 if there is none."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    # Programs sign their own certificates as they start; we only ask whether they answer.
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(request, timeout=2.0, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
