"""Looks for the files that a job names on this machine: what can be known before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimrg_api.errors import Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.explain import show
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.introspection import Location, format_location
from unimrg_api.yaml_source import Document, read_yaml

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png")


def missing_inputs(job_file: Path) -> list[Problem]:
    """Return a problem (INPUT_MISSING) for each `file://` URI of a job's file at which what it names is not
    there.

    Works on the file's values and not on a job, so that it can be asked about a job that has other problems
    too.
    """
    document = read_yaml(job_file.read_bytes())
    base = job_file.resolve().parent
    found = []
    for location in _places(document.value):
        value = _at(document.value, location)
        if not isinstance(value, str) or not value.startswith("file://"):
            continue
        finding = _look(location[-1], path_of(resolve_uri(value, base)))
        if finding is not None:
            found.append(_problem(document, location, value, *finding))
    return found


def _places(value: Any) -> Iterator[Location]:
    yield ("spec", "data", "source", "photographs")
    yield ("spec", "model", "init")
    shards = _at(value, ("spec", "data", "shards"))
    if _at(value, ("spec", "data", "source")) is None and isinstance(shards, list):
        for index in range(len(shards)):
            yield ("spec", "data", "shards", index)


def _look(field: str | int, path: Path) -> tuple[str, str] | None:
    """Return what is missing and the remedy, or None if all is there."""
    if field == "photographs":
        if not path.is_dir():
            wrong = "is not a folder" if path.exists() else "does not exist"
            return f"the folder {path} {wrong}", "create it, correct the path, or leave the field out"
        if not any(item.suffix.lower() in PHOTOGRAPH_SUFFIXES for item in path.iterdir()):
            kinds = ", ".join(PHOTOGRAPH_SUFFIXES)
            return f"the folder {path} holds no photograph ({kinds})", "add one, or leave the field out"
        return None
    if field == "init":
        if not path.exists():
            return f"{path} does not exist", "correct the path, or leave the field out to draw the first weights"
        return None
    if not path.is_dir():
        return f"the folder {path} does not exist", "correct the path, or give data.source to have it made"
    return None


def _problem(document: Document, location: Location, value: str, message: str, remedy: str) -> Problem:
    mark = document.marks[location]
    return Problem(
        format_location(location),
        show(value),
        message,
        remedy,
        mark.line,
        mark.column,
        exit_code=ExitCode.INPUT_MISSING,
    )


def _at(value: Any, location: Location) -> Any:
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value
