"""What the job's models are made of: their base class, decimal strings, URIs, and rules that span several
fields.

The models must be expressible as a structural schema of Kubernetes (they become the CRD), so: no unions but
"or absent", no tuples, no floats, bounds on every string and list, `ge`/`le` instead of `gt`/`lt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

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


class Spec(BaseModel):
    """Base of every part of a job: unknown fields are refused, values are taken as they are, nothing
    changes."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
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

URI_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+|file://\S(.*\S)?)$"
NAME_BYTES = 255
"""Longest name of a file or folder, in UTF-8, that file systems take."""


def path_fault(uri: str) -> tuple[str, str] | None:
    """Return why no file system can hold what a URI names, and the remedy; None if nothing speaks against it."""
    path = unquote(uri) if uri.startswith("file://") else uri
    if "\0" in path:
        return "holds a NUL character (%00), which no path can hold", "take it out"
    longest = max((len(part.encode(errors="replace")) for part in path.split("/")), default=0)
    if longest > NAME_BYTES:
        return f"has a part of {longest} bytes between slashes, and at most {NAME_BYTES} are possible", "shorten it"
    return None


def _possible_path(uri: str) -> str:
    fault = path_fault(uri)
    if fault is not None:
        raise PydanticCustomError("impossible_path", "{text}", {"text": fault[0]})
    return uri


Uri = Annotated[str, Field(pattern=URI_PATTERN, max_length=2048), AfterValidator(_possible_path)]
"""`s3://bucket/prefix`, `file:///absolute/path`, or `file://path` relative to the folder of the job's
file."""


def resolve_uri(uri: str, base: Path) -> str:
    """Return `uri` with an absolute path: `file://` URIs are taken relative to `base`, others stay as they
    are.

    The path is made plain (`a/../b` is `b`) without asking the file system, and characters that a URI cannot
    hold are percent-encoded; `path_of` is the way back.
    """
    if not uri.startswith("file://"):
        return uri
    path = base / unquote(uri.removeprefix("file://"))
    return Path(os.path.abspath(path)).as_uri()  # noqa: PTH100 - Path.absolute keeps the dots


def path_of(uri: str) -> Path:
    """Return the path of an absolute `file:///` URI."""
    assert uri.startswith("file:///"), uri
    return Path(unquote(urlsplit(uri).path))
