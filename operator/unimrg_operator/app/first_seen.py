"""When this process first saw something, by its own clock: other machines' clocks may be wrong."""

from __future__ import annotations

import threading

FORGET_SECONDS = 86400.0
"""What nobody asked about for so long is forgotten."""


class FirstSeen:
    """Moments by uid, in seconds of whatever clock the caller has. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: dict[str, tuple[float, float]] = {}
        """When each was first and last asked about."""

    def of(self, uid: str, now: float) -> float:
        """Return when that uid was first asked about: `now` if never before."""
        with self._lock:
            self._moments = {key: pair for key, pair in self._moments.items() if now - pair[1] < FORGET_SECONDS}
            first, _ = self._moments.get(uid, (now, now))
            self._moments[uid] = (first, now)
            return first
