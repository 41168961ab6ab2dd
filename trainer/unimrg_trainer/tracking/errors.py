"""The four ways in which a request to MLflow fails, each of which needs another reaction."""

from __future__ import annotations

import re

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean

_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_FORBIDDEN = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}
_HTTP_CODE = re.compile(r"failed with error code (\d{3})")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CAUSE = re.compile(r".*Max retries exceeded.*Caused by \w+\(.*?(?:\): |: )([^:].*?)[\"']\)\)", re.S)
"""What lies behind a failed connection, in the text of urllib3."""
_REMEDIES = {
    "Invalid Host header": "start it as `mlflow server --allowed-hosts NAME`, NAME being the host and port of"
    " spec.tracking.mlflow.uri",
    "CERTIFICATE_VERIFY_FAILED": "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of the server's authority",
    "WRONG_VERSION_NUMBER": "the server does not use TLS: write http:// in spec.tracking.mlflow.uri",
}
"""What a person can do about an answer of the server, by a part of that answer."""
_CREDENTIALS = "check MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN and their permissions"


class UnavailableError(Exception):
    """The server takes nothing now: everything is kept, and the same request is made again later."""

    exit_code = ExitCode.UNAVAILABLE


class ActionRequiredError(UnavailableError):
    """The server takes nothing until a person has changed something; the message says what."""

    def __init__(self, message: str, remedy: str = "", exit_code: ExitCode = ExitCode.CONFIGURATION) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.exit_code = exit_code


class RefusedError(Exception):
    """The server will never take what was sent (a 4xx answer): it stays in the spool."""


class RunGoneError(Exception):
    """The run was deleted, or the server has another data base than before."""


def explain(server: str, error: Exception) -> tuple[str, ExitCode]:
    """Return in one sentence what MLflow at the URI `server` does not do, why, and what a person can do; and a code."""
    known = isinstance(error, UnavailableError)
    what = "refuses this job's records" if isinstance(error, ActionRequiredError) else "cannot be reached"
    # Addresses of objects differ in each attempt, and would make one cause look like many.
    text = _ADDRESS.sub("", clean(str(error) if known else repr(error), 500))
    if cause := _CAUSE.fullmatch(text):
        text = cause[1]
    code = error.exit_code if isinstance(error, UnavailableError) else ExitCode.UNAVAILABLE
    return f"MLflow at {server} {what}: {text}", code


def translate(error: Exception) -> Exception:
    """Return one of the errors above for whatever MLflow's client raised, with the server's own text."""
    if isinstance(error, UnavailableError | RefusedError | RunGoneError):
        return error
    whole = str(error).strip() or type(error).__name__
    text = clean(whole.splitlines()[0], 500)  # what follows, as SQLAlchemy's statement and link, is for its authors
    code = str(getattr(error, "error_code", ""))
    match = _HTTP_CODE.search(whole)
    http = int(match[1]) if match else 0
    for part, remedy in _REMEDIES.items():
        if part.lower() in whole.lower():
            return ActionRequiredError(text, remedy)
    if code in _FORBIDDEN or http in (401, 403):
        return ActionRequiredError(text, _CREDENTIALS, ExitCode.CREDENTIALS)
    if code == "RESOURCE_DOES_NOT_EXIST":
        return RunGoneError(text)
    return RefusedError(text) if code in _REFUSED or http in (400, 413, 422) else UnavailableError(text)
