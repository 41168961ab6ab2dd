"""How values become the texts of a status: times, durations, numbers, one-word reasons, one-line messages."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from unimrg_api.redaction import clean
from unimrg_api.status import TEXT_LIMIT

COUNT_LIMIT = 10**12
"""Largest count that is shown: pods may say anything."""
_LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_CAMEL_CASE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")


def time_text(seconds: float) -> str:
    """Return Unix time as UTC in ISO 8601, cut to whole seconds."""
    moment = datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_TIME), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def time_of(text: str | None) -> float:
    """Return the Unix time of a text; 0 (long ago) for one that is missing or no time at all."""
    try:
        return datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def left(since: float, seconds: float, now: float) -> float:
    """Return how many seconds are left of a wait that began at `since`; 0 if it is over.

    Being before the beginning counts as time passed: a clock that was set back must not hold up a job for ever.
    """
    return max(0.0, seconds - abs(now - since))


def soonest(*waits: float | None) -> float | None:
    """Return the shortest of the waits that are not over; None if there is none."""
    return min((wait for wait in waits if wait), default=None)


def count(value: float) -> int:
    """Return a count that the schema takes, whatever a pod reported."""
    return int(min(max(value, 0), COUNT_LIMIT))


def number(value: float) -> str:
    """Return a number for people, five significant digits: `1.2345`."""
    return f"{value:.5g}"


def camel_case(text: str, default: str) -> str:
    """Return `text` if it is in CamelCase, as reasons must be, else `default`."""
    return text if _CAMEL_CASE.fullmatch(text) else default


def line(*parts: str) -> str:
    """Return a message in one line: without control characters and what looks like a key, and not too long."""
    text = "; ".join(part for part in (" ".join(part.split()) for part in parts) if part)
    return clean(text, TEXT_LIMIT)
