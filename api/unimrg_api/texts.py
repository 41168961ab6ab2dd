"""How lengths of time are written for people, and how long is waited between tries: one form each for all programs."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: `1d02h`, `1h20m`, `2m03s`, `45s`; below 10 s `1.2s`."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = max(0, round(seconds))
    for large, small, name, other in ((86_400, 3600, "d", "h"), (3600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= large:
            return f"{whole // large}{name}{whole % large // small:02d}{other}"
    return f"{whole}s"


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 step`, `2 steps`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def backoff(initial: float, maximum: float, failures: int, jitter: float = 1.0) -> float:
    """Return the seconds to wait after `failures` in a row (at least 1): `initial`, doubled each time, up to `maximum`.

    A random `jitter` from 0 to 1 shortens it by up to a half, so that many waiting programs do not return at once.
    """
    return min(initial * 2.0 ** min(max(failures - 1, 0), 32), maximum) * (0.5 + 0.5 * jitter)
