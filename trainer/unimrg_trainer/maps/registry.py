"""Maps by name: the built-in ones, and those that installed packages bring (entry points `unimrg.maps`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from unimrg_api.plugins import load, names
from unimrg_api.spec_model import ANSWERING
from unimrg_trainer.maps.base import ImageMap

MAPS = {
    "pixel": "unimrg_trainer.maps.pixel:PIXEL",
    "depth": "unimrg_trainer.maps.depth:DEPTH",
    "segmentation": "unimrg_trainer.maps.segmentation:SEGMENTATION",
}
"""Name → object, in the order in which losses and pictures are listed everywhere."""


def find_map(name: str) -> ImageMap:
    """Return the map of that name. Raises UserError listing the known ones."""
    return cast(ImageMap, load("unimrg.maps", MAPS, name, field="spec.objectives"))


def maps_of(objectives: Iterable[str]) -> list[str]:
    """Return the names of the maps that shards must hold for objectives, by the names that a job gives these."""
    built_in = {found.objective: found for found in map(find_map, MAPS)}
    maps = [built_in.get(name) or find_map(name) for name in objectives if name != ANSWERING]
    return [one.name for one in maps if one.stored]


def stored_maps() -> frozenset[str]:
    """Return the names that maps have in shards, and beside images. Raises UserError for a package that is broken."""
    known = [find_map(name) for name in names("unimrg.maps", MAPS)]
    return frozenset(map.name for map in known if map.stored)
