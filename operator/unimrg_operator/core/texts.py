"""Formats values for status fields: times, durations, numbers, one-word reasons, one-line messages."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from unimrg_api.redaction import clean
from unimrg_api.status import TEXT_LIMIT

COUNT_LIMIT = 10**12
"""Largest count that is shown: reports of pods are untrusted."""
_LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_CAMEL_CASE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")


def format_time(seconds: float) -> str:
    """Return Unix time as UTC in ISO 8601, cut to whole seconds."""
    moment = datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_TIME), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> float:
    """Return the Unix time of a text; 0 if it is missing or malformed."""
    try:
        return datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def remaining(since: float, seconds: float, now: float) -> float:
    """Return the seconds that remain of a wait that began at `since`; 0 if it is over.

    The absolute difference counts, so a clock that was set back cannot block a job for ever.
    """
    return max(0.0, seconds - abs(now - since))


def shortest_wait(*waits: float | None) -> float | None:
    """Return the shortest wait that is neither None nor 0; None if there is none."""
    return min((wait for wait in waits if wait), default=None)


def clamp_count(value: float) -> int:
    """Return a reported number as an integer between 0 and COUNT_LIMIT."""
    return int(min(max(value, 0), COUNT_LIMIT))


def format_number(value: float) -> str:
    """Return a number for people, five significant digits: `1.2345`."""
    return f"{value:.5g}"


def valid_reason(text: str, default: str) -> str:
    """Return `text` if it is in CamelCase, as reasons must be, else `default`."""
    return text if _CAMEL_CASE.fullmatch(text) else default


def one_line(*parts: str) -> str:
    """Join parts into one line of at most TEXT_LIMIT characters, without control characters and credentials."""
    text = "; ".join(part for part in (" ".join(part.split()) for part in parts) if part)
    return clean(text, TEXT_LIMIT)
