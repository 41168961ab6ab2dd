"""Images of a folder or a bucket: to train on, with captions, questions and maps beside them, or for sample grids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from unimrg_api.spec_sources import IMAGE_SUFFIXES, FolderSpec, ImagesSpec
from unimrg_trainer.maps.registry import stored_maps
from unimrg_trainer.preparation.base import BadItem, SourcePlace, SourceSample
from unimrg_trainer.preparation.sources.beside import VERSION, sample_of, split_at_random
from unimrg_trainer.preparation.sources.files import File, Files


class Images:
    """The source `images`: split `preview`."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self._files = Files(ImagesSpec.model_validate(settings).uri, place, "uri")
        self.texts: dict[str, int] = {}

    def identity(self) -> Any:
        """Return the digest of the folder's listing."""
        return self._files.identity()

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """How many images there are. Raises JobError (66) for none."""
        return {"preview": len(self._images)}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return an image alone. Raises as `Files.read` does."""
        file = self._images[number]
        return SourceSample(self._files.read(file), name=file.name)

    @cached_property
    def _images(self) -> list[File]:
        return images_of(self._files)


class Folder:
    """The source `folder`."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self._settings, self._place = FolderSpec.model_validate(settings), place
        self._files = Files(self._settings.uri, place, "uri")
        self.texts: dict[str, int] = {}

    def identity(self) -> Any:
        """Return the digest of the folder's listing and how much of it is held out."""
        return {"version": VERSION, "files": self._files.identity(), "heldOut": self._settings.held_out}

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """How many images each split has. Raises JobError for none."""
        return {split: len(numbers) for split, numbers in self._numbers.items()}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return an image with what lies beside it. Raises BadItem, and as `Files.read` does."""
        file = self._images[self._numbers[split][number]]
        root, read, listed = _root(file.name), self._files.read, self._files.listed
        if self._map_of(file):
            raise BadItem(file.name, "it is a map without an image")
        maps = {map: read(other) for map, other in self._maps.get(root, {}).items()}
        texts = {kind: read(listed[name]) for kind in ("txt", "json") if (name := f"{root}.{kind}") in listed}
        return sample_of(file.name, read(file), texts, maps)

    @cached_property
    def _numbers(self) -> Mapping[str, Any]:
        return split_at_random(len(self._images), self._settings.held_out, self._place)

    @cached_property
    def _images(self) -> list[File]:
        maps = {file.name for found in self._maps.values() for file in found.values()}
        return [file for file in images_of(self._files) if file.name not in maps]

    @cached_property
    def _maps(self) -> Mapping[str, Mapping[str, File]]:
        """Image by its name without suffix → the maps beside it."""
        images = images_of(self._files)
        roots, found = {_root(file.name) for file in images}, dict[str, dict[str, File]]()
        for file in images:
            root, _, _ = _root(file.name).rpartition(".")
            if root in roots and (map := self._map_of(file)):
                found.setdefault(root, {})[map] = file
        return found

    def _map_of(self, file: File) -> str:
        """Return which map a file is by its name, empty for none: photo.edited.jpg is an image like any other."""
        root, _, suffix = file.name.rpartition(".")
        _, dot, map = root.rpartition(".")
        return map if dot and suffix.lower() == "png" and map in self._known else ""

    @cached_property
    def _known(self) -> frozenset[str]:
        return stored_maps()


def images_of(files: Files) -> list[File]:
    """Return the files that are images by their names. Raises JobError (66) for none."""
    images = [file for file in files.listed.values() if file.name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise files.refused(
            f"there is no image ({', '.join(IMAGE_SUFFIXES)})", "add one, correct the URI, or leave the source out"
        )
    return images


def _root(name: str) -> str:
    return name.rpartition(".")[0]
