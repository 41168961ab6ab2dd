"""Sources by name: the built-in ones, and those that installed packages bring (entry points `unimrg.sources`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.plugins import load
from unimrg_api.spec_platform import SourceSpec
from unimrg_trainer.data.publication import SPLITS
from unimrg_trainer.preparation.base import Source, SourceFactory

SOURCES = {
    "scenes": "unimrg_trainer.preparation.sources.scenes:Scenes",
    "images": "unimrg_trainer.preparation.sources.images:Images",
    "photographs": "unimrg_trainer.preparation.sources.photographs:Photographs",
}


def open_sources(specs: Sequence[SourceSpec], base: Path) -> dict[str, Source]:
    """Return the job's sources by name, in its order. Raises UserError or JobError naming the field."""
    opened: dict[str, Source] = {}
    for index, spec in enumerate(specs):
        name, settings = spec.selected()
        field = f"spec.data.sources[{index}]"
        factory: SourceFactory = load("unimrg.sources", SOURCES, name, field=field)
        source = factory(settings, base, field)
        if unknown := sorted(set(source.splits) - set(SPLITS)):
            raise UserError(
                f"{field}: the source {name} has a split {unknown[0]!r}",
                remedy=f"a package may use {', '.join(SPLITS)}",
            )
        opened[name] = source
    return opened
