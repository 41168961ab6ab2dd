"""What an API server says when it refuses a job, as the problems that the command line would have named.

Pure: it reads the `Status` object of the reply, whoever fetched it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from unimrg_api.cluster import VERSION
from unimrg_api.errors import Problem
from unimrg_api.explain import null_finding, show, to_finding
from unimrg_api.introspection import view_at
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_location
from unimrg_api.redaction import clean

MESSAGE_LIMIT = 1024
"""Characters of a message that are shown."""

_KINDS = "Invalid value|Required value|Unsupported value|Duplicate value|Forbidden|Too long|Too many|Too few"
_CAUSE = re.compile(rf"(?P<kind>{_KINDS})(?:: )?(?P<rest>.*)", re.DOTALL)
_VALUE = re.compile(r'("(?:[^"\\]|\\.)*"|\{[^{}]*\}|-?[0-9][0-9.e+-]*|null|true|false)(?:: |$)')
_NO_NEWS = re.compile(
    "some validation rules were not checked|no such key: \\S+ evaluating rule: |Checked value must be of type"
)
"""Said about rules that were not asked because something else is wrong, or a second time about a wrong type."""
_DECIMAL_POINT = re.compile("invalid data, expected int, got float64 evaluating rule")
"""What rules say about `2.0` where a whole number belongs; the server's schema takes it, and does not say where."""
_STRICT = re.compile(r'(unknown|duplicate) field "((?:[^"\\]|\\.)*)"')
_UNREADABLE = re.compile(r"cannot unmarshal (\w+) into Go struct field ObjectMeta\.([\w.]+) of type (\S+)")
_OTHER_VERSION = re.compile(r'in version "([^"]*)" cannot be handled')


def problems_of(status: Mapping[str, Any]) -> list[Problem]:
    """Return what an API server finds wrong with a job, with the paths of the job; never an empty list.

    `status` is the reply's object of kind Status. A reply that is not about the job's fields (no permission, no
    such namespace) is one problem without a path.
    """
    text = str(status.get("message") or status.get("reason") or "the API server refused the job without a reason")
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, Mapping) else None
    found = [] if status.get("reason") not in ("Invalid", "BadRequest") else [*_decoding(text), *_causes(causes)]
    return list(dict.fromkeys(found)) or [Problem("", "", clean(text, MESSAGE_LIMIT))]


def _decoding(text: str) -> Iterator[Problem]:
    """What stopped the server from reading the job at all: unknown fields, texts that are numbers, another version."""
    version = _OTHER_VERSION.search(text)
    if version is not None and version[1] != VERSION:
        yield _explained("apiVersion", "literal_error", version[1])
        return
    for kind, path in _STRICT.findall(text):
        if kind == "duplicate":
            yield Problem(path, "", "the field is given twice", "keep one of them")
        elif view_at(UniMRGJob, parse_location(path)) is None:
            yield _explained(path, "extra_forbidden", None)
        else:
            message = "the UniMRGJob that this cluster knows has no such field"
            yield Problem(path, "", message, "install the custom resource of this version, or leave the field out")
    for found, field, wanted in _UNREADABLE.findall(text):
        yield Problem(f"metadata.{field}", "", f"must be a {wanted}, not a {found}", "correct its type")


def _explained(path: str, kind: str, value: str | None) -> Problem:
    """Return the problem in the words of the command line."""
    finding = to_finding(parse_location(path), kind, value, "", {})
    return Problem(path, "" if value is None else show(value), finding.message, finding.remedy)


def _causes(causes: Any) -> Iterator[Problem]:
    """What the server's schema and rules found."""
    for cause in causes if isinstance(causes, list) else ():
        if not isinstance(cause, Mapping):
            continue
        path, text = str(cause.get("field", "")), str(cause.get("message", ""))
        path = "" if path == "<nil>" else path
        if _NO_NEWS.search(text):
            continue
        if _DECIMAL_POINT.search(text):
            message = "a whole number in here is written with a decimal point"
            yield Problem(path, "", message, "write it without one: 2, not 2.0")
            continue
        parts = _CAUSE.fullmatch(text)
        kind, rest = (parts["kind"], parts["rest"]) if parts else ("", text)
        value = _VALUE.match(rest)
        shown, rest = (value[1], rest[value.end() :]) if value else ("", rest)
        if kind == "Required value" and not rest:
            finding = null_finding(parse_location(path))
            yield Problem(path, "", "the field is missing", finding.remedy)
            continue
        rest = rest.removeprefix(f"{path} in body ")
        if rest.startswith("must be of type"):
            shown, rest = "", rest.partition(": ")[0]  # the value is the name of a type
        message = rest if kind in ("", "Invalid value", "Required value", "Forbidden") else f"{kind.lower()}: {rest}"
        yield Problem(path, clean(shown, 60), clean(message.removesuffix(": "), MESSAGE_LIMIT))
