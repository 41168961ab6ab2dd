"""What the job's models say about a field: type, bounds, choices, default. For messages and for the
reference."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from unimrg_api.fields import (
    FRACTION_PATTERN,
    POSITIVE_RATE_PATTERN,
    RATE_PATTERN,
    URI_PATTERN,
    WEIGHT_PATTERN,
    Spec,
)
from unimrg_api.unions import OneOf

Location = tuple[str | int, ...]
"""Where something is in a job: field names as written there, and list indices."""

DECIMAL_PATTERNS = frozenset({WEIGHT_PATTERN, FRACTION_PATTERN, RATE_PATTERN, POSITIVE_RATE_PATTERN})
"""Patterns of strings that hold decimal numbers."""


@dataclass(frozen=True)
class View:
    """One value that a job can hold: a field, or the entries of a list or mapping."""

    kind: str
    """`model`, `list`, `mapping` (name → text), `json` (name → anything), `choice`, `int` or `text`."""
    required: bool = False
    default: Any = None
    description: str = ""
    model: type[Spec] | None = None
    """The fields, where the kind is `model`."""
    entry: View | None = None
    """What a list or mapping holds."""
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    max_length: int | None = None

    @property
    def is_decimal(self) -> bool:
        """Whether this is a string that holds a decimal number."""
        return self.pattern in DECIMAL_PATTERNS

    @property
    def is_uri(self) -> bool:
        """Whether this is a URI of a file or an object."""
        return self.pattern == URI_PATTERN


@cache
def fields_of(model: type[Spec]) -> dict[str, View]:
    """Return the fields of a model by their name in the job."""
    found = {}
    for name, field in model.model_fields.items():
        view = _view(field.annotation, field.metadata)
        found[field.alias or name] = View(
            **{
                **view.__dict__,
                "required": field.is_required(),
                "default": None if field.is_required() else field.get_default(call_default_factory=True),
                "description": " ".join((field.description or "").split()),
            }
        )
    return found


def view_at(root: type[Spec], location: Sequence[str | int]) -> View | None:
    """Return what the job's models say about a place; None if there is no such place."""
    view: View | None = View("model", model=root)
    for part in location:
        if view is None:
            return None
        if isinstance(part, int):
            view = view.entry if view.kind == "list" else None
        elif view.kind == "mapping":
            view = view.entry
        else:
            view = fields_of(view.model).get(part) if view.model is not None else None
    return view


def placeholder(view: View) -> Any:
    """Return some value that is right by itself, to look past a wrong one."""
    if view.kind == "model":
        assert view.model is not None
        one = view.model.members[:1] if issubclass(view.model, OneOf) else ()
        fields = fields_of(view.model).items()
        return {name: placeholder(item) for name, item in fields if item.required or name in one}
    if view.kind == "list":
        return [placeholder(view.entry)] * (view.min_length or 0) if view.entry else []
    if view.kind in ("mapping", "json"):
        return {}
    if view.kind == "choice":
        return view.choices[0]
    if view.kind == "int":
        return view.minimum or 0
    return "file://x" if view.is_uri else "0.5" if view.is_decimal else "x"


def format_location(location: Sequence[str | int]) -> str:
    """Return a place as people write it: `spec.objectives[1].weight`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _view(annotation: Any, metadata: Sequence[Any]) -> View:
    annotation, metadata = _unwrap(annotation, list(metadata))
    origin = get_origin(annotation)
    bounds = _bounds(metadata)
    if origin is Literal:
        return View("choice", choices=get_args(annotation))
    if origin is list:
        return View("list", entry=_view(get_args(annotation)[0], ()), **bounds)
    if origin is dict and get_args(annotation)[1] is Any:
        return View("json")
    if origin is dict:
        return View("mapping", entry=_view(get_args(annotation)[1], ()), **bounds)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return View("model", model=annotation)
    if annotation is int:
        return View("int", **bounds)
    assert annotation is str, f"the job's models hold no {annotation}"
    return View("text", **bounds)


def _unwrap(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Take `Annotated` and `| None` off a type; return what is inside and all constraints on the way."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            for item in more:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        elif get_origin(annotation) in (Union, types.UnionType):
            (annotation,) = (item for item in get_args(annotation) if item is not type(None))
        else:
            return annotation, metadata


def _bounds(metadata: Sequence[Any]) -> dict[str, Any]:
    names = {
        "ge": "minimum",
        "le": "maximum",
        "pattern": "pattern",
        "min_length": "min_length",
        "max_length": "max_length",
    }
    found = {}
    for item in metadata:
        for attribute, name in names.items():
            value = getattr(item, attribute, None)
            if value is not None:
                found[name] = value
    return found
