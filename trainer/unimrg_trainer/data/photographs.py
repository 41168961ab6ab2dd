"""Finds the photographs that a job names, and takes them in as they are: original bytes, no targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.spec_platform import IMAGE_SUFFIXES
from unimrg_trainer.data.decode import image_extension
from unimrg_trainer.data.shards import CorruptDataError, sha256

JOB_FIELD = "spec.data.sources"

Item = TypeVar("Item", "Photograph", Path)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Photograph:
    """A file as it was when the data set's digest was taken."""

    path: Path
    sha256: str


def find_photographs(uri: str | None, base: Path) -> list[Photograph]:
    """Return the JPEG and PNG files of a folder, sorted by name; other and hidden files are left out.

    No `uri` means none. Raises JobError (INPUT_MISSING) if the folder is missing, is no folder, or holds no
    photograph, or a file cannot be read.
    """
    if uri is None:
        return []
    folder = _folder(uri, base)
    try:
        files = _files(uri, folder)
    except OSError as error:
        message = f"the folder {folder} cannot be read: {error.strerror or error}"
        raise _missing(uri, message, "check its permissions, or correct the path") from error
    return _for_each(files, lambda path: Photograph(path, sha256(path.read_bytes())))


def _files(uri: str, folder: Path) -> list[Path]:
    if not folder.exists():
        raise _missing(
            uri, f"the folder {folder} does not exist", "create it, correct the path, or leave the field out"
        )
    if not folder.is_dir():
        raise _missing(uri, f"{folder} is not a folder", "name the folder that holds the photographs")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise _missing(uri, f"the folder {folder} holds no photograph ({kinds})", "add one, or leave the field out")
    return files


def check_photographs(photographs: Sequence[Photograph]) -> list[str]:
    """Decode every file, one at a time, and return the extension (`jpg` or `png`) of each one's *content*.

    Raises one JobError (DATA_CORRUPT) that names all that are damaged, no JPEG or PNG, or changed since.
    """
    return _for_each(photographs, lambda photograph: image_extension(read_photograph(photograph)))


def read_photograph(photograph: Photograph) -> bytes:
    """Return the file's bytes. Raises CorruptDataError if they changed since they were found, or OSError."""
    content = photograph.path.read_bytes()
    if sha256(content) != photograph.sha256:
        raise CorruptDataError(f"{photograph.path} changed while it was being taken in", remedy="start again")
    return content


def _for_each(items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
    """Return the result for every item, or raise one JobError with a problem for each that failed."""
    results, problems = [], []
    for item in items:
        path = item.path if isinstance(item, Photograph) else item
        try:
            results.append(work(item))
        except OSError as error:
            reason, remedy = f"cannot be read: {error.strerror or error}", "check the file's permissions"
            problems.append(_problem(repr(str(path)), f"the photograph {reason}", remedy))
        except ValueError as error:
            reason, remedy = f"cannot be used: {error}", "replace the file or take it out of the folder"
            problems.append(_problem(repr(str(path)), f"the photograph {reason}", remedy, ExitCode.DATA_CORRUPT))
    if problems:
        raise JobError(problems)
    return results


def _folder(uri: str, base: Path) -> Path:
    absolute = resolve_uri(uri, base)
    if not absolute.startswith("file://"):
        remedy = "use a file:// URI; shards, once prepared, may lie elsewhere"
        raise JobError([_problem(repr(uri), "photographs are read from a folder only", remedy, ExitCode.CONFIGURATION)])
    return path_of(absolute)


def _missing(uri: str, message: str, remedy: str) -> JobError:
    return JobError([_problem(repr(uri), message, remedy)])


def _problem(value: str, message: str, remedy: str, code: ExitCode = ExitCode.INPUT_MISSING) -> Problem:
    return Problem(path=JOB_FIELD, value=value, message=message, remedy=remedy, exit_code=code)
