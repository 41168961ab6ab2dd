"""What the job's models are made of: their base class, decimal strings, URIs, and rules that span several
fields.

The models must be expressible as a structural schema of Kubernetes (they become the CRD), so: no unions but
"or absent", no tuples, no floats, bounds on every string and list, `ge`/`le` instead of `gt`/`lt`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

RULE_ERROR = "rule"
"""Type of the error that carries violations of rules."""


@dataclass(frozen=True)
class Violation:
    """A rule that several fields break together."""

    path: str
    """Where to show it, relative to the model, as written in the job: `batch.rowsPerObjective`."""
    message: str
    remedy: str
    involves: frozenset[str]
    """Every path that the rule reads; if one of them is wrong in itself, the rule says nothing."""


@dataclass(frozen=True)
class CelRule:
    """A rule as an API server asks it, in the Common Expression Language: the twin of a rule in Python.

    It is asked even where a number is out of bounds or a text has the wrong form, so it must bear that.
    """

    rule: str
    """Expression over `self`, with the names of the job; true where all is well."""
    path: str
    """Where to show it, relative to `self`, as in the twin; empty: at `self`. A server takes no indices here."""
    message: str
    """What is wrong and what to write instead, in one line."""
    reason: Literal["Invalid", "Forbidden", "Required"] = "Invalid"

    def to_json(self) -> dict[str, str]:
        """Return the rule as an entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message, "reason": f"FieldValue{self.reason}"}
        return {**entry, "fieldPath": f".{self.path}"} if self.path else entry


LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
RULES = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"


def listed_by(key: str) -> dict[str, Any]:
    """Return what a list's schema says if `key` tells its entries apart; an API server then refuses duplicates."""
    return {LIST_TYPE: "map", LIST_KEYS: [key]}


def _add_cel(schema: dict[str, Any], model: type[Spec]) -> None:
    if model.cel:
        schema[RULES] = [rule.to_json() for rule in model.cel]


class Spec(BaseModel):
    """Base of every part of a job: unknown fields are refused, values are taken as they are, nothing
    changes."""

    cel: ClassVar[tuple[CelRule, ...]] = ()
    """The twins of `violations` that no schema can say."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_extra=_add_cel,
    )

    def violations(self) -> Iterator[Violation]:
        """Yield every rule between fields that does not hold."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_violations(self) -> Self:
        found = list(self.violations())
        if found:
            text = "; ".join(f"{item.path}: {item.message}" for item in found)
            raise PydanticCustomError(RULE_ERROR, "{text}", {"text": text, "violations": found})
        return self


WEIGHT_PATTERN = r"^[0-9]{1,4}(\.[0-9]{1,6})?$"
FRACTION_PATTERN = r"^0(\.[0-9]{1,12})?$"
_EXPONENT = r"([eE](-[0-9]{1,2}|[+]?0{1,2}))?"
RATE_PATTERN = rf"^([0-9]{{1,3}})(\.[0-9]{{1,12}})?{_EXPONENT}$"
POSITIVE_RATE_PATTERN = rf"^(0\.0*[1-9][0-9]*|0*[1-9][0-9]{{0,2}}(\.[0-9]+)?){_EXPONENT}$"

Weight = Annotated[str, Field(pattern=WEIGHT_PATTERN, max_length=11)]
"""A decimal string from "0" to "9999.999999"."""
Fraction = Annotated[str, Field(pattern=FRACTION_PATTERN, max_length=14)]
"""A decimal string from "0" up to, but without, "1"."""
Rate = Annotated[str, Field(pattern=RATE_PATTERN, max_length=24)]
"""A decimal string from zero to below 1000, in scientific notation (no positive exponent) if wanted: "0.02",
"1e-5"."""
PositiveRate = Annotated[str, Field(pattern=POSITIVE_RATE_PATTERN, max_length=24)]
"""A decimal string above zero and below 1000, in scientific notation (no positive exponent) if wanted."""

VISIBLE = r"[^\x00-\x20]"
"""Any character but ASCII's white space and controls. (`\\S` means one thing to Rust, which reads patterns here, and
another to Go, which reads them in an API server.)"""
LINE_PATTERN = rf"^{VISIBLE}(.*{VISIBLE})?$"
"""One line of text, not empty, without white space around it."""

URI_PATTERN = rf"^(s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]/[^\x00-\x20\\\x7f]+|file://{VISIBLE}(.*{VISIBLE})?)$"
NAME_BYTES = 255
"""Longest name of a file or folder, in UTF-8, that file systems take."""
KEY_BYTES = 1024
"""Longest key, in UTF-8, that object stores take."""
_NO_KEY = r"^s3://[^/]*/(.*/)?([.][.]?(/|$)|/+[^/])"
"""A key with an empty part or the part . or .., in Python's and Go's regular expressions alike; slashes at the end are
no part of a key."""


def path_fault(uri: str) -> tuple[str, str] | None:
    """Return why no store can hold what a URI names, and the remedy; None if it is possible.

    Folders and buckets can hold the same things, so that what is in one can be copied to the other.
    """
    parts = [part.encode(errors="replace") for part in uri.split("/")]
    if uri.startswith("file://"):
        parts = [unquote_to_bytes(part) for part in parts]
    if any(b"\0" in part for part in parts):
        return "holds a NUL character (%00), which no path can hold", "take it out"
    if uri.startswith("s3://"):
        if re.search(r"[\x00-\x20\\\x7f]", uri):
            return "holds white space, a backslash or a control character, which a key may not", "take it out"
        if re.search(_NO_KEY, uri):
            return "has an empty part, or . or .., between slashes, which a key may not", "take it out"
        if len(uri.encode(errors="replace")) > KEY_BYTES:
            return f"has more than {KEY_BYTES} bytes, and no key of an object store is longer", "shorten it"
    longest = max(map(len, parts))
    if longest > NAME_BYTES:
        return f"has a part of {longest} bytes between slashes, and at most {NAME_BYTES} are possible", "shorten it"
    return None


_PATH_RULES = (
    CelRule(
        r"!self.contains('\x00') && !(self.startsWith('file://') && self.contains('%00'))",
        "",
        "holds a NUL character (%00), which no path can hold: take it out",
    ),
    CelRule(
        "self.split('/').all(part, size(bytes(part)) - "
        f"(self.startsWith('file://') ? 2 * size(part.findAll('%[0-9a-fA-F]{{2}}')) : 0) <= {NAME_BYTES})",
        "",
        f"has a part of more than {NAME_BYTES} bytes between slashes: shorten it",
    ),
    CelRule(
        f"!self.matches(r'{_NO_KEY}')",
        "",
        "has an empty part, or . or .., between slashes, which a key may not: take it out",
    ),
    CelRule(
        f"!self.startsWith('s3://') || size(bytes(self)) <= {KEY_BYTES}",
        "",
        f"has more than {KEY_BYTES} bytes, and no key of an object store is longer: shorten it",
    ),
)
"""The twins of `path_fault`."""


def _possible_path(uri: str) -> str:
    fault = path_fault(uri)
    if fault is not None:
        raise PydanticCustomError("impossible_path", "{text}", {"text": fault[0]})
    return uri


Uri = Annotated[
    str,
    Field(
        pattern=URI_PATTERN,
        max_length=1024,  # API servers bound the cost of the rules by it
        json_schema_extra={RULES: [rule.to_json() for rule in _PATH_RULES]},
    ),
    AfterValidator(_possible_path),
]
"""`s3://bucket/prefix`, `file:///absolute/path`, or `file://path` relative to the folder of the job's
file."""
ShortUri = Annotated[Uri, Field(max_length=512)]
"""A URI in a list of several entries: an API server counts the cost of its rules for each of them."""


def resolve_uri(uri: str, base: Path) -> str:
    """Return `uri` with an absolute path: `file://` URIs are taken relative to `base`, others stay as they
    are.

    The path is made plain (`a/../b` is `b`) without asking the file system, and characters that a URI cannot
    hold are percent-encoded; `path_of` is the way back.
    """
    if not uri.startswith("file://"):
        return uri
    path = base / _unquote(uri.removeprefix("file://"))
    return Path(os.path.abspath(path)).as_uri()  # noqa: PTH100 - Path.absolute keeps the dots


def path_of(uri: str) -> Path:
    """Return the path of an absolute `file:///` URI."""
    assert uri.startswith("file:///"), uri
    return Path(_unquote(urlsplit(uri).path))


def _unquote(path: str) -> str:
    """Return a URI's path as the file system names it, which need not be UTF-8."""
    return unquote(path, errors="surrogateescape")
