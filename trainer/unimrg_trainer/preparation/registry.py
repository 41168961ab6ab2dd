"""Sources by name: the built-in ones, and those that installed packages bring (entry points `unimrg.sources`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.plugins import load
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.publication import SPLITS
from unimrg_trainer.preparation.base import Source, SourceFactory, SourcePlace

SOURCES = {
    "scenes": "unimrg_trainer.preparation.sources.scenes:Scenes",
    "photographs": "unimrg_trainer.preparation.sources.photographs:Photographs",
    "images": "unimrg_trainer.preparation.sources.folder:Images",
    "folder": "unimrg_trainer.preparation.sources.folder:Folder",
    "llava": "unimrg_trainer.preparation.sources.llava:Llava",
    "webDataset": "unimrg_trainer.preparation.sources.web_dataset:WebDataset",
}


def open_sources(
    specs: Sequence[SourceSpec], base: Path, storage: StorageSpec | None = None, cache: Path = PodEnvironment.cache
) -> dict[str, Source]:
    """Return the job's sources by name, in its order; for the rest see `SourcePlace`.

    Raises UserError or JobError naming the field.
    """
    opened: dict[str, Source] = {}
    for index, spec in enumerate(specs):
        name, settings = spec.selected()
        field = f"spec.data.sources[{index}]"
        factory: SourceFactory = load("unimrg.sources", SOURCES, name, field=field)
        opened[name] = factory(settings, SourcePlace(f"{field}.{name}", base, storage, cache))
    return opened


def check_splits(sources: dict[str, Source]) -> None:
    """Raise UserError for a source, of a package, with splits of its own."""
    for name, source in sources.items():
        if unknown := sorted(set(source.splits) - set(SPLITS)):
            raise UserError(
                f"the source {name} has a split {unknown[0]!r}", remedy=f"a package may use {', '.join(SPLITS)}"
            )
