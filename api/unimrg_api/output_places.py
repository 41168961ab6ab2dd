"""Whether what a job writes lies in a folder that it prepares data from: then every run would change its own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimrg_api.fields import resolve_uri
from unimrg_api.introspection import Location, value_at
from unimrg_api.spec_sources import SOURCE_URIS

REMEDY = "write it beside that folder, or give the images a folder of their own"
_OUTPUTS: tuple[Location, ...] = (("data", "shards", 0), ("checkpoint", "uri"))


def outputs_in_sources(spec: Any, base: Path) -> Iterator[tuple[Location, str, str]]:
    """Yield (place below spec, URI, message) for each output of a job's spec, as JSON, below a source's folder.

    Relative URIs count from `base`, a folder.
    """
    folders = list(_folders(spec, base))
    for place in _OUTPUTS:
        uri = value_at(spec, place)
        if not isinstance(uri, str):
            continue
        inside = next((folder for folder in folders if f"{resolve_uri(uri, base)}/".startswith(f"{folder}/")), None)
        if inside is not None:
            yield place, uri, f"it lies in {inside}, which data is prepared from: each run would change that data"


def _folders(spec: Any, base: Path) -> Iterator[str]:
    """Yield the URIs of all folders that sources list, without a slash at the end."""
    sources = value_at(spec, ("data", "sources"))
    for source in sources if isinstance(sources, list) else ():
        for place in SOURCE_URIS:
            uri = value_at(source, tuple(place.split(".")))
            if isinstance(uri, str) and "://" in uri and not place.endswith("annotations"):
                folder = uri.rpartition("/")[0] if "{" in uri else uri  # tars by number
                yield resolve_uri(folder, base).rstrip("/")
