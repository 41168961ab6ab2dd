"""What an API server answers when it does not do what was asked, each answer as a class of its own."""

# ruff: noqa: N818 - answers are named as the API names them

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ConfigurationError(Exception):
    """There is no usable kubeconfig, and the process does not run in a pod with a service account either."""


class ApiError(Exception):
    """A request failed. `status` is the HTTP status, 0 where no answer came.

    `kind_missing` is True where the API server does not know the kind of object at all; `retry_after` is how many
    seconds it asks to be left alone, 0 where it does not.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after: float = 0.0, kind_missing: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.kind_missing = kind_missing

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.reason})" if self.status else self.message


class Unauthorized(ApiError):
    """401: the token is not valid (any more)."""


class Forbidden(ApiError):
    """403: no right to do this, or a quota or admission rule is against it."""


class NotFound(ApiError):
    """404: there is no such object, namespace or kind."""


class Conflict(ApiError):
    """409: the object has changed since, or a precondition does not hold."""


class AlreadyExists(Conflict):
    """409 for a create: an object of that name is there."""


class Gone(ApiError):
    """410: the resource version or the continue token is too old."""


class Refused(ApiError):
    """400, 413, 415, 422: the object is not acceptable as it is."""


class TooManyRequests(ApiError):
    """429: come back after `retry_after` seconds."""


class Unavailable(ApiError):
    """5xx, a time-out, or no connection: it may well work later."""


class NotLeading(ApiError):
    """Nothing was sent: another replica may lead by now."""


_CLASSES: dict[int, type[ApiError]] = {
    400: Refused,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: Refused,
    415: Refused,
    422: Refused,
    429: TooManyRequests,
}
_MESSAGE_LIMIT = 1024
_LONGEST_WAIT = 300.0


def error_of(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """Return the error that an answer with this HTTP status means; `body` may be a Status object or anything."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        # What does not come as a Status: no such path ("404 page not found"), or a proxy's own words.
        content = {"message": body.decode("utf-8", "replace").strip(), "details": None}
    return error_of_status(content, status=status, retry_after=_seconds(headers.get("Retry-After")))


def error_of_status(content: Mapping[str, Any], *, status: int = 0, retry_after: float = 0.0) -> ApiError:
    """Return the error that a Status object means, as it also comes in a watch."""
    code = content.get("code")
    status = status or (code if isinstance(code, int) else 500)
    reason = str(content.get("reason") or "")
    message = str(content.get("message") or f"the API server answered {status}")[:_MESSAGE_LIMIT]
    details = content.get("details")
    # An object that is missing is named in the details; a kind that is missing has nothing to name.
    named = isinstance(details, dict) and bool(details.get("name"))
    error_class = AlreadyExists if reason == "AlreadyExists" else _CLASSES.get(status)
    if error_class is None:
        error_class = Unavailable if status >= 500 else ApiError
    return error_class(
        status, reason, message, retry_after=retry_after, kind_missing=error_class is NotFound and not named
    )


def _seconds(text: str | None) -> float:
    """Seconds of a Retry-After header; a date, or nothing sensible, counts as one second."""
    if text is None:
        return 0.0
    try:
        return min(max(float(text), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 1.0
