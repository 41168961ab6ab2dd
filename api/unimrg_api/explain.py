"""Turns pydantic's errors into messages for people: what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unimrg_api.errors import Problem
from unimrg_api.fields import (
    FRACTION_PATTERN,
    POSITIVE_RATE_PATTERN,
    RATE_PATTERN,
    WEIGHT_PATTERN,
    Spec,
    path_fault,
)
from unimrg_api.introspection import Location, View, fields_of, format_location, view_at
from unimrg_api.job import NAME_PATTERN, NAMESPACE_PATTERN, UniMRGJob
from unimrg_api.redaction import clean
from unimrg_api.spec_platform import (
    ENDPOINT_PATTERN,
    MOUNT_PATTERN,
    OBJECT_NAME_PATTERN,
    REGION_PATTERN,
    TRACKING_PATTERN,
)
from unimrg_api.yaml_source import Position

VALUE_LIMIT = 60
"""Characters of a wrong value that are shown."""

_DECIMALS = {
    WEIGHT_PATTERN: ('a decimal number from "0" to "9999.999999"', "1"),
    FRACTION_PATTERN: ('a decimal number of at least "0" and less than "1"', "0.1"),
    RATE_PATTERN: ('a decimal number of zero or more and less than "1000", with no positive exponent', "0.02"),
    POSITIVE_RATE_PATTERN: ('a decimal number above zero and less than "1000", with no positive exponent', "1e-5"),
}
"""For each kind of decimal string: what it must be, and an example."""

_FORMS = {
    NAME_PATTERN: ("may hold lower-case letters, digits and dashes only, and must begin with a letter", ""),
    NAMESPACE_PATTERN: ("may hold lower-case letters, digits and dashes only", ""),
    OBJECT_NAME_PATTERN: ("may hold lower-case letters, digits, dashes and single dots only", ""),
    REGION_PATTERN: ("may hold lower-case letters, digits and dashes only", "us-east-1"),
    ENDPOINT_PATTERN: (
        "is not the address of a store: scheme, host and port (at most 65535)",
        "https://minio.example:9000",
    ),
    TRACKING_PATTERN: ("is not the address of a tracking server", "http://mlflow:5000"),
    MOUNT_PATTERN: ("must be an absolute path of plain names, without .. and a slash at the end", "/mnt/data"),
}
"""For each form of a text: what it must be, and an example; "": one is made from what was written."""

_KEYS = {
    ENDPOINT_PATTERN: "put the keys into a Secret and name it in credentials.secretName; `unimrg run` takes "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment",
    TRACKING_PATTERN: "put them into a Secret and name it in credentials.secretName; `unimrg run` takes "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment",
}
"""Where the keys belong that somebody wrote into an address."""

_NOUNS = {
    "spec.objectives[].name": "objective",
    "spec.method": "method",
}
"""What the choices of a field are called."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, before it is known where in a file it stands."""

    location: Location
    value: Any
    message: str
    remedy: str
    involves: frozenset[Location] = frozenset()
    """Every place that must be right by itself for this to be true."""
    at_key: bool = False
    """Whether the name of the field is what is wrong, not its value."""
    absent: bool = False
    """Whether there is no value to show."""

    def __post_init__(self) -> None:
        if not self.involves:
            object.__setattr__(self, "involves", frozenset({self.location}))


def null_finding(location: Location) -> Finding:
    """A field without a value."""
    view = view_at(UniMRGJob, location)
    required = view is not None and view.required
    remedy = f"give it a value: {_wanted(view)}" if required else "give it a value, or leave the field out"
    return Finding(location, None, "the field has no value (null)", remedy, absent=True)


def to_finding(
    location: Location,
    kind: str,
    value: Any,
    text: str,
    positions: Mapping[Location, Position],
) -> Finding:
    """Explain one error of the models; `kind` and `text` are pydantic's type and message."""
    view = view_at(UniMRGJob, location)
    if kind == "no_json":
        return Finding(location, value, text, "correct this value")
    if kind == "missing":
        return _missing(location, view)
    if kind == "extra_forbidden":
        return _unknown(location, value)
    if value is None:
        return null_finding(location)
    position = positions.get(location)
    written = position.text if position is not None and position.text is not None else _plain(value)
    if view is None:
        return Finding(location, value, text[:1].lower() + text[1:], "see docs/reference/job.md")
    message, remedy = _wrong_value(location, view, kind, value, written)
    return Finding(location, value, message, remedy)


def to_problem(finding: Finding, positions: Mapping[Location, Position]) -> Problem:
    """Place a finding in its file: at its key or value, or for an absent field at what it should stand in."""
    location = finding.location
    position = positions.get(location)
    at_key = finding.at_key
    while position is None and location:
        location, at_key = location[:-1], True
        position = positions.get(location)
    return Problem(
        path=format_location(finding.location),
        value="" if finding.absent else show(finding.value),
        message=finding.message,
        remedy=finding.remedy,
        line=None if position is None else position.key_line if at_key else position.line,
        column=None if position is None else position.key_column if at_key else position.column,
    )


def show(value: Any) -> str:
    """Return a value as Python shows it, on one short line and without keys."""
    text = "null" if value is None else clean(repr(value)).replace("\n", " ")
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 1]}…"


def closest(text: str, known: list[str]) -> str | None:
    """Return the known name that was most likely meant, if one is near; case, - and _ do not count."""
    plain = {re.sub(r"[-_]", "", item).casefold(): item for item in reversed(known)}
    found = difflib.get_close_matches(re.sub(r"[-_]", "", text).casefold(), list(plain), n=1, cutoff=0.7)
    return plain[found[0]] if found else None


def _missing(location: Location, view: View | None) -> Finding:
    message = "the field is missing, and there is no default for it"
    return Finding(location, None, message, f"add it: {_wanted(view)}", absent=True)


def _unknown(location: Location, value: Any) -> Finding:
    name = str(location[-1])
    parent = view_at(UniMRGJob, location[:-1])
    known = list(fields_of(parent.model)) if parent is not None and parent.model is not None else []
    guess = closest(name, known)
    elsewhere = _paths_of(name)
    if guess is not None:
        remedy = f"did you mean {guess}?"
    elif len(elsewhere) == 1:
        remedy = f"did you mean {elsewhere[0]}?"
    else:
        remedy = f"known fields here: {', '.join(known)}"
    return Finding(location, value, f"there is no field {name!r} here", remedy, at_key=True)


def _paths_of(name: str) -> list[str]:
    """Where in a job there is a field with this name."""

    def search(model: type[Spec], prefix: str) -> list[str]:
        found = []
        for key, view in fields_of(model).items():
            path = f"{prefix}.{key}" if prefix else key
            inner = view.entry if view.kind == "list" else view
            if key.casefold() == name.replace("_", "").casefold():
                found.append(path)
            if inner is not None and inner.model is not None:
                found += search(inner.model, path + ("[]" if view.kind == "list" else ""))
        return found

    return search(UniMRGJob, "")


def _wrong_value(location: Location, view: View, kind: str, value: Any, written: str) -> tuple[str, str]:
    """Return what is wrong with a value and what to write instead."""
    name = next((part for part in reversed(location) if isinstance(part, str)), "")
    entry = isinstance(location[-1], int) if location else False
    if view.kind == "model":
        fields = list(fields_of(view.model)) if view.model is not None else []
        return f"must hold fields, not {_noun(value)}", f"put fields below it: {', '.join(fields)}"
    if view.kind == "mapping" and not isinstance(value, dict):
        return f"must be a mapping of names to texts, not {_noun(value)}", "write `name: text` lines below it"
    if view.kind == "json":
        return f"must be a mapping of settings, not {_noun(value)}", "write `name: value` lines below it"
    if view.kind == "list" and not isinstance(value, list):
        remedy = "begin each entry with a dash" if isinstance(value, dict) else f"write {name}: [{written}]"
        return f"must be a list, not {_noun(value)}", remedy
    if view.kind in ("list", "mapping"):
        return _wrong_count(view, value)
    if view.kind == "choice":
        return _wrong_choice(location, view, value)
    if view.kind == "int":
        return _wrong_integer(view, kind, value, written, "" if entry else f"{name}: ")
    if view.is_decimal:
        return _wrong_decimal(view, value, written, "" if entry else f"{name}: ")
    return _wrong_text(view, kind, value, written, "" if entry else f"{name}: ")


def _wrong_count(view: View, value: Any) -> tuple[str, str]:
    count = len(value)
    if view.min_length is not None and count < view.min_length:
        return f"needs at least {_entries(view.min_length)}", "add one"
    return f"has {count} entries, and at most {view.max_length} are allowed", "shorten it"


def _wrong_choice(location: Location, view: View, value: Any) -> tuple[str, str]:
    generic = format_location(tuple(0 if isinstance(part, int) else part for part in location))
    noun = _NOUNS.get(generic.replace("[0]", "[]"))
    known = ", ".join(view.choices)
    message = f"there is no {noun} {show(value)}" if noun else f"must be {_either(view.choices)}"
    if location == ("apiVersion",):
        message = "this is not a version of a job that is read here"
    elif location == ("kind",):
        message = "this is not a UniMRGJob"
    guess = closest(str(value), list(view.choices))
    if guess is not None and len(view.choices) > 1:
        return f"{message}; known: {known}" if noun else message, f"did you mean {guess}?"
    return message, f"write one of: {known}" if len(view.choices) > 1 else f"write {view.choices[0]}"


def _wrong_integer(view: View, kind: str, value: Any, written: str, label: str) -> tuple[str, str]:
    allowed = f"from {view.minimum} to {view.maximum}"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {view.minimum}" if kind.startswith("greater") else f"at most {view.maximum}"
        return f"must be {bound}", f"use a whole number {allowed}"
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value):
        return "must be a whole number, not a text", f"write {label}{int(value)} (no quotes)"
    if isinstance(value, float) and value.is_integer():
        return "must be a whole number, without a decimal point", f"write {label}{int(value)}"
    if isinstance(value, float) and value != value:
        return "NaN is not a number that can be used", f"use a whole number {allowed}"
    noun = "a fraction" if isinstance(value, float) else _noun(value)
    return f"must be a whole number, not {noun}", f"use a whole number {allowed}"


def _wrong_decimal(view: View, value: Any, written: str, label: str) -> tuple[str, str]:
    wanted, example = _DECIMALS[view.pattern or ""]
    example = view.default or example
    remedy = f'write e.g. {label}"{example}"'
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return f"must be {wanted}, as a text in quotes, not {_noun(value)}", remedy
    bare = written.strip().strip("+-.").casefold()
    if bare in ("nan", "inf", "infinity"):
        name = "NaN" if bare == "nan" else "infinity"
        return f"{name} is not a number that can be used; it must be {wanted}", remedy
    if not isinstance(value, str):
        if re.search(view.pattern or "", written):
            message = "must be a decimal number as a text in quotes, not a bare number"
            return message, f'write {label}"{written}"'
        return f"must be {wanted}, as a text in quotes", remedy
    return f"must be {wanted}", remedy


def _wrong_text(view: View, kind: str, value: Any, written: str, label: str) -> tuple[str, str]:
    if not isinstance(value, str):
        if isinstance(value, bool | int | float):
            return f"must be a text, not {_noun(value)}", f'write {label}"{written}"'
        return f"must be a text, not {_noun(value)}", "write one value"
    if kind == "string_too_long" or (view.max_length is not None and len(value) > view.max_length):
        return f"is {len(value)} characters long, and at most {view.max_length} are allowed", "shorten it"
    if not value.strip():
        return "is empty", "give it a value, or leave the field out"
    if view.is_uri:
        return _wrong_uri(value, label)
    if view.pattern in _KEYS and "@" in value:
        return "may not hold a user name or password", _KEYS[view.pattern]
    if view.pattern in _FORMS:
        message, example = _FORMS[view.pattern]
        slug = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-").lstrip("-0123456789")
        return message, f"write e.g. {label}{example or slug or 'my-job'}"
    if re.search(r"\s", value):
        return "holds white space where none may be", "take it out"
    return "does not have the form that is wanted", view.description or "see docs/reference/job.md"


def _wrong_uri(value: str, label: str) -> tuple[str, str]:
    fault = path_fault(value)
    if fault is not None:
        return fault
    message = "is not a URI of the form s3://bucket/prefix or file://path"
    name, colon, rest = value.strip().partition(":")
    if not colon:
        return message, f"write {label}file://{name}"
    if name not in ("s3", "file"):
        return f"{name}: is not a kind of store that is known", "use s3:// or file://"
    bucket, _, key = rest.strip("/").partition("/")
    if name == "file":
        return message, f"write {label}file://{rest.removeprefix('//')}"
    remedy = f"write e.g. {label}s3://{bucket.lower() or 'bucket'}/{key or 'prefix'}"
    return message, f"{remedy}; a bucket has 3 to 63 lower-case letters, digits, dots and dashes"


def _wanted(view: View | None) -> str:
    if view is None:
        return "see docs/reference/job.md"
    if view.kind == "choice":
        return f"one of {', '.join(view.choices)}" if len(view.choices) > 1 else view.choices[0]
    if view.kind == "model" and view.model is not None:
        needed = [name for name, item in fields_of(view.model).items() if item.required]
        return f"with {', '.join(needed)}" if needed else "a mapping"
    return view.description[:1].lower() + view.description[1:].rstrip(".") if view.description else "a value"


def _noun(value: Any) -> str:
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "a number" if isinstance(value, int | float) else "a text"


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def _either(choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else show(value)
