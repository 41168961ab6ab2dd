"""Looks for the files that a job names on this machine: what can be known before anything is started."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimrg_api.errors import Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.explain import show
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.introspection import Location, format_location, value_at
from unimrg_api.output_places import REMEDY, outputs_in_sources
from unimrg_api.spec_benchmarks import BENCHMARK_URIS
from unimrg_api.spec_maps import PRODUCERS
from unimrg_api.spec_sources import IMAGE_SUFFIXES, SOURCE_URIS
from unimrg_api.yaml_source import Document


def missing_inputs(document: Document, base: Path) -> list[Problem]:
    """Return a problem (INPUT_MISSING) for each `file://` URI of a job's document at which what it names is not there,
    and for each output in a folder that data is prepared from; relative ones count from `base`.

    Works on the document's values and not on a job, so that it can be asked about a job that has other problems too.
    """
    found = []
    for location in _places(document.value):
        value = value_at(document.value, location)
        if not isinstance(value, str) or not value.startswith("file://"):
            continue
        path = path_of(resolve_uri(value, base))
        try:
            finding = _look(location, path)
        except OSError as error:
            remedy = "choose a shorter path" if error.errno == errno.ENAMETOOLONG else "check its permissions"
            finding = f"{path} cannot be looked at: {error.strerror or error}", remedy
        if finding is not None:
            line, column = document.place(location)
            problem = Problem(format_location(location), show(value), *finding, line, column, ExitCode.INPUT_MISSING)
            found.append(problem)
    for place, uri, message in outputs_in_sources(value_at(document.value, ("spec",)), base):
        line, column = document.place(("spec", *place))
        found.append(Problem(format_location(("spec", *place)), show(uri), message, REMEDY, line, column))
    return found


def _places(value: Any) -> Iterator[Location]:
    sources = value_at(value, ("spec", "data", "sources"))
    if isinstance(sources, list):
        for index in range(len(sources)):
            for uri in SOURCE_URIS:
                yield ("spec", "data", "sources", index, *uri.split("."))
    for place in PRODUCERS:
        yield ("spec", "data", "maps", *place.split("."), "weights")
    evaluate = ("spec", "stages", "evaluate")
    yield (*evaluate, "files")
    benchmarks = value_at(value, (*evaluate, "benchmarks"))
    for index in range(len(benchmarks) if isinstance(benchmarks, list) else 0):
        for uri in BENCHMARK_URIS:
            yield (*evaluate, "benchmarks", index, *uri.split("."))
    yield ("spec", "model", "init")
    yield ("spec", "model", "assets")
    shards = value_at(value, ("spec", "data", "shards"))
    if sources is None and isinstance(shards, list):
        for index in range(len(shards)):
            yield ("spec", "data", "shards", index)


def _look(location: Location, path: Path) -> tuple[str, str] | None:
    """Return what is missing and the remedy, or None if all is there."""
    kind, field = location[-2:]
    if "evaluate" in location:
        remedy = "correct the path, or put there what docs/how-to/evaluation.md says"
        return None if path.exists() else (f"{path} does not exist", remedy)
    if field in ("init", "assets"):
        without = "weights are then random" if field == "init" else "the family's folder in the cache is then used"
        remedy = f"correct the path, or leave the field out ({without})"
        found = path.is_dir() or (field == "init" and path.exists())
        return None if found else (f"{path} {'is not a folder' if path.exists() else 'does not exist'}", remedy)
    if field == "weights":
        remedy = "correct the path, or put the weights there (docs/method/producers.md says which)"
        return None if path.exists() else (f"{path} does not exist", remedy)
    source = "sources" in location
    remedy = "correct the path, or leave the source out" if source else "correct the path, or give data.sources"
    if "{" in path.name:
        path = path.parent  # tars by number
    if field == "annotations":
        return None if path.is_file() else (f"the file {path} does not exist", remedy)
    if not path.is_dir():
        return f"the folder {path} {'is not a folder' if path.exists() else 'does not exist'}", remedy
    if kind in ("images", "folder") and not any(_images_below(path)):
        return f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)})", remedy
    return None


def _images_below(path: Path) -> Iterator[str]:
    return (
        name
        for _, _, names in os.walk(path, followlinks=True)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
