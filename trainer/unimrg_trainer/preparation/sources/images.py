"""The JPEG and PNG files of a folder, taken in byte for byte and without maps, for sample grids.

A file's name decides its place in the order and nothing else; it is never stored, so that it may be any bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.spec_platform import IMAGE_SUFFIXES, ImagesSpec
from unimrg_trainer.data.decode import check_image
from unimrg_trainer.data.shards import CorruptDataError, sha256
from unimrg_trainer.preparation.base import SourceSample

Result = TypeVar("Result")


class Images:
    """The source `images`: split `preview`. Every file's sha256 is taken when it is opened."""

    def __init__(self, settings: Mapping[str, Any], base: Path, field: str) -> None:
        self._uri = ImagesSpec.model_validate(settings).uri
        self._field = f"{field}.images.uri"
        folder = path_of(resolve_uri(self._uri, base))
        try:
            self._files = self._find(folder)
        except OSError as error:
            message = f"the folder {str(folder)!r} cannot be read: {error.strerror or error}"
            raise self._refused(message, "check its permissions, or correct the path") from error
        self._digests = self._for_each(lambda number: sha256(self._files[number].read_bytes()))
        self.splits = {"preview": len(self._files)}

    def identity(self) -> Any:
        """Return the sha256 of every file, in order."""
        return self._digests

    def check(self) -> None:
        """Decode every file, one at a time. Raises one JobError (65, 66) that names all that are unreadable."""
        self._for_each(lambda number: check_image(self._read(number)))

    def sample(self, split: str, number: int) -> SourceSample:
        """Return a file as it is. Raises CorruptDataError if it changed since it was found."""
        return SourceSample(image=self._read(number))

    def _read(self, number: int) -> bytes:
        path = self._files[number]
        content = path.read_bytes()
        if sha256(content) != self._digests[number]:
            raise CorruptDataError(f"{str(path)!r} changed while it was read", remedy="start again")
        return content

    def _find(self, folder: Path) -> list[Path]:
        """Return the images of the folder, sorted by the bytes of their names; hidden files are left out."""
        if not folder.is_dir():
            wrong = "is not a folder" if folder.exists() else "does not exist"
            raise self._refused(f"the folder {str(folder)!r} {wrong}", "create it, correct the path, or leave it out")
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
        if not files:
            message = f"the folder {str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)})"
            raise self._refused(message, "add one, or leave the source out")
        return sorted(files, key=lambda path: os.fsencode(path.name))

    def _for_each(self, work: Callable[[int], Result]) -> list[Result]:
        """Return the result for the number of every file. Raises one JobError that names all that failed."""
        results, problems = [], []
        for number, path in enumerate(self._files):
            try:
                results.append(work(number))
            except OSError as error:
                message, remedy = f"the image cannot be read: {error.strerror or error}", "check its permissions"
                problems.append(self._problem(path, message, remedy, ExitCode.INPUT_MISSING))
            except CorruptDataError:
                raise
            except ValueError as error:
                message, remedy = f"the image cannot be used: {error}", "replace it, or take it out of the folder"
                problems.append(self._problem(path, message, remedy, ExitCode.DATA_CORRUPT))
        if problems:
            raise JobError(problems)
        return results

    def _refused(self, message: str, remedy: str) -> JobError:
        return JobError([self._problem(self._uri, message, remedy, ExitCode.INPUT_MISSING)])

    def _problem(self, value: Path | str, message: str, remedy: str, code: ExitCode) -> Problem:
        return Problem(path=self._field, value=repr(str(value)), message=message, remedy=remedy, exit_code=code)
