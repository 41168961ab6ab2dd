"""What the job's models are made of: their base class, decimal strings, URIs, and rules that span several fields.

The models must be expressible as a structural schema of Kubernetes (they become the CRD), so: no unions but
"or absent", no tuples, no floats, bounds on every string and list, `ge`/`le` instead of `gt`/`lt`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

RULE_ERROR = "rule"
"""Type of the error that carries violations of rules."""


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold."""

    path: str
    """Where to show it, relative to the model, as written in the job: `batch.rowsPerObjective`."""
    message: str
    remedy: str
    reads: frozenset[str] = frozenset()
    """Every path that the rule reads; if one of them is wrong in itself, the rule says nothing."""
    secret: bool = False
    """Whether the value must not be shown."""


@dataclass(frozen=True)
class FieldRule:
    """A rule that no schema can say: asked of the models here, and by an API server in the Common Expression Language.

    The server asks it even where a number is out of bounds or a text has the wrong form, so it must bear that.
    """

    path: str
    """Where to show it, relative to what it is asked of, as in a job; empty: there. A server takes no indices here."""
    message: str
    remedy: str
    holds: Callable[[Any], bool]
    """Whether all is well with a model, or a text."""
    cel: str
    """The same as an expression over `self`, with the names of the job."""
    advice: Callable[[Any], str] | None = None
    """The remedy with the numbers of a model; None: `remedy`."""

    def to_json(self) -> dict[str, str]:
        """Return the rule as an entry of `x-kubernetes-validations`."""
        message = f"{self.message}: {self.remedy}"
        entry = {"rule": self.cel, "message": message, "reason": "FieldValueInvalid"}
        return {**entry, "fieldPath": f".{self.path}"} if self.path else entry

    def violation(self, value: Any) -> Violation:
        """Return that this rule does not hold for `value`."""
        reads = frozenset(re.findall(r"\bself\.(\w+(?:\.\w+)*)(?![\w(])", self.cel))
        return Violation(self.path, self.message, self.advice(value) if self.advice else self.remedy, reads)


def refuse(violations: Sequence[Violation]) -> None:
    """Raise pydantic's error that carries these violations, if there are any."""
    if violations:
        text = "; ".join(f"{item.path}: {item.message}" for item in violations)
        raise PydanticCustomError(RULE_ERROR, "{text}", {"text": text, "violations": violations})


LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
RULES = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"


def listed_by(key: str) -> dict[str, Any]:
    """Return what a list's schema says if `key` tells its entries apart; an API server then refuses duplicates."""
    return {LIST_TYPE: "map", LIST_KEYS: [key]}


def _complete(schema: dict[str, Any], model: type[Spec]) -> None:
    """Add to a model's schema its rules, and what the docstrings below its fields say.

    Pydantic would read the docstrings of every model while it is imported, which takes longer than to check a job.
    """
    if model.rules:
        schema[RULES] = [rule.to_json() for rule in model.rules]
    for name, text in descriptions(model).items():
        entry = schema.get("properties", {}).get(model.model_fields[name].alias or to_camel(name))
        if entry is not None:
            entry["description"] = text


def descriptions(model: type[Spec]) -> dict[str, str]:
    """Return the docstring below each field of a model, inherited ones too."""
    bases = [base for base in reversed(model.__mro__) if issubclass(base, Spec)]
    return {name: text for base in bases for name, text in _docstrings(base).items()}


@cache
def _docstrings(model: type[Spec]) -> dict[str, str]:
    """Return the text below each of the fields that a class declares itself; none where its source is not at hand."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except OSError:
        return {}
    found = {}
    for node, below in itertools.pairwise(getattr(tree, "body", ())):
        match node, below:
            case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))) if (
                name in model.model_fields
            ):
                found[name] = inspect.cleandoc(text)
    return found


class Spec(BaseModel):
    """Base of every part of a job: unknown fields are refused, values are taken as they are, nothing changes."""

    rules: ClassVar[tuple[FieldRule, ...]] = ()
    """Rules between its fields."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        defer_build=True,  # each is built as a part of the job, and not by itself too
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        json_schema_extra=_complete,
    )

    def violations(self) -> Iterator[Violation]:
        """Yield every rule that does not hold."""
        return (rule.violation(self) for rule in self.rules if not rule.holds(self))

    @model_validator(mode="after")
    def _refuse_violations(self) -> Self:
        refuse(list(self.violations()))
        return self


WEIGHT_PATTERN = r"^[0-9]{1,4}(\.[0-9]{1,6})?$"
FRACTION_PATTERN = r"^0(\.[0-9]{1,12})?$"
SHARE_PATTERN = r"^(0(\.[0-9]{1,12})?|1(\.0{1,12})?)$"
_EXPONENT = r"([eE](-[0-9]{1,2}|[+]?0{1,2}))?"
RATE_PATTERN = rf"^([0-9]{{1,3}})(\.[0-9]{{1,12}})?{_EXPONENT}$"
POSITIVE_RATE_PATTERN = rf"^(0\.0*[1-9][0-9]*|0*[1-9][0-9]{{0,2}}(\.[0-9]+)?){_EXPONENT}$"

DECIMALS = {
    WEIGHT_PATTERN: ('a decimal number in quotes, from "0" to "9999.999999"', '"1"'),
    FRACTION_PATTERN: ('a decimal number in quotes, at least "0" and less than "1"', '"0.1"'),
    SHARE_PATTERN: ('a decimal number in quotes, from "0" to "1"', '"0.9"'),
    RATE_PATTERN: ('a decimal number in quotes, zero or more, less than "1000", without positive exponent', '"0.02"'),
    POSITIVE_RATE_PATTERN: (
        'a decimal number in quotes, above zero, less than "1000", without positive exponent',
        '"1e-5"',
    ),
}
"""For each kind of decimal string: what it must be, and an example."""

Weight = Annotated[str, Field(pattern=WEIGHT_PATTERN, max_length=11)]
Fraction = Annotated[str, Field(pattern=FRACTION_PATTERN, max_length=14)]
Share = Annotated[str, Field(pattern=SHARE_PATTERN, max_length=14)]
Rate = Annotated[str, Field(pattern=RATE_PATTERN, max_length=24)]
PositiveRate = Annotated[str, Field(pattern=POSITIVE_RATE_PATTERN, max_length=24)]

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


def _longest_part(uri: str) -> int:
    """Return the bytes of the longest part between slashes, as a store names it."""
    parts = [part.encode(errors="replace") for part in uri.split("/")]
    return max(len(unquote_to_bytes(part) if uri.startswith("file://") else part) for part in parts)


_NO_PATH = r"^file://(~|localhost/)"

URI_RULES = (
    FieldRule(
        "",
        "begins with ~ or a host, and is taken as it is written",
        "write file:/// and the whole path, or a path relative to the job's file",
        lambda uri: re.search(_NO_PATH, uri) is None,
        f"!self.matches(r'{_NO_PATH}')",
    ),
    FieldRule(
        "",
        "holds a NUL character (%00), which no path can hold",
        "take it out",
        lambda uri: "\0" not in uri and not (uri.startswith("file://") and "%00" in uri),
        r"!self.contains('\x00') && !(self.startsWith('file://') && self.contains('%00'))",
    ),
    FieldRule(
        "",
        f"has a part of more than {NAME_BYTES} bytes between slashes",
        "shorten it",
        lambda uri: _longest_part(uri) <= NAME_BYTES,
        "self.split('/').all(part, size(bytes(part)) - "
        f"(self.startsWith('file://') ? 2 * size(part.findAll('%[0-9a-fA-F]{{2}}')) : 0) <= {NAME_BYTES})",
    ),
    FieldRule(
        "",
        "has an empty part, or . or .., between slashes, which a key may not",
        "take it out",
        lambda uri: re.search(_NO_KEY, uri) is None,
        f"!self.matches(r'{_NO_KEY}')",
    ),
    FieldRule(
        "",
        f"has more than {KEY_BYTES} bytes, and no key of an object store is longer",
        "shorten it",
        lambda uri: not uri.startswith("s3://") or len(uri.encode(errors="replace")) <= KEY_BYTES,
        f"!self.startsWith('s3://') || size(bytes(self)) <= {KEY_BYTES}",
    ),
)
"""What no store can hold. Folders and buckets hold the same, so that what is in one can be copied to the other."""


def possible_uri(uri: str) -> str:
    """Return the URI. Raises pydantic's error for one that no store can hold."""
    refuse([rule.violation(uri) for rule in URI_RULES if not rule.holds(uri)][:1])
    return uri


Uri = Annotated[
    str,
    Field(
        pattern=URI_PATTERN,
        max_length=1024,  # API servers bound the cost of the rules by it
        json_schema_extra={RULES: [rule.to_json() for rule in URI_RULES]},
    ),
    AfterValidator(possible_uri),
]
"""`s3://bucket/prefix`, `file:///absolute/path`, or `file://path` relative to the folder of the job's file."""
ShortUri = Annotated[Uri, Field(max_length=256)]
"""A URI in a list of several entries: an API server counts the cost of its rules for each of them."""


def resolve_uri(uri: str, base: Path) -> str:
    """Return `uri` with an absolute path: `file://` URIs are taken relative to `base`, others stay as they are.

    The path is made plain (`a/../b` is `b`) without asking the file system, and characters that a URI cannot hold are
    percent-encoded; `path_of` is the way back.
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
