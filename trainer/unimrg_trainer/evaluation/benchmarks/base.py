"""The protocol of a benchmark: items that ask the model for text or images, and a score of what came.

A benchmark knows the data and how to score. The runner (`evaluation/runner.py`) batches the requests, spreads them over
the ranks and records the result; neither knows anything about the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import numpy as np

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.evaluation.result import BenchmarkResult, ItemScore, Table
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest, PromptStyle
from unimrg_trainer.sample import ALL, Sample, Wanted
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import NotFound
from unimrg_trainer.storage.copies import local_file

__all__ = [
    "Benchmark",
    "BenchmarkFactory",
    "BenchmarkPlace",
    "BenchmarkResult",
    "FileSink",
    "HeldOut",
    "Item",
    "ItemScore",
    "Items",
    "LazyItems",
    "NeedsFiles",
    "ReducesImages",
    "Result",
    "Subject",
    "Table",
]

Result = Any
"""The answer to an AnswerRequest, a text; or the image for a GenerateRequest, uint8 [H, W, 3] of the family's own size;
or the JSON value that `ReducesImages.reduce` made of that image."""


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that is asked of the model, and what is needed to score the result."""

    key: str
    """Name of the item, unique within the benchmark or shared by items that are not independent."""
    request: AnswerRequest | GenerateRequest
    truth: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class HeldOut(Protocol):
    """The held-out split of the data set, as far as benchmarks read it (`data/dataset.py`)."""

    images: range
    questions: range

    def image_sample(self, number: int, /) -> Sample: ...

    def question_sample(self, number: int, /, wanted: Wanted = ALL) -> Sample: ...


@dataclass(frozen=True)
class Subject:
    """What is evaluated, as far as benchmarks see it."""

    held_out: HeldOut | None
    """None: the job has no data."""
    maps: Sequence[ImageMap]
    """Those that the job trains the model to generate."""
    prompts: PromptStyle
    """How the model's family is asked."""
    device: str = "cpu"
    """Where models that judge its output run."""


class Items(Protocol):
    """A list of items, or a `LazyItems`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


@dataclass(frozen=True, eq=False)
class LazyItems:
    """`count` items, each made when it is asked for, so that not all images are in memory at once."""

    count: int
    make: Callable[[int], Item]
    make_for_score: Callable[[int], Item] | None = None
    """Makes an item as its score needs it, where that takes less: without an image that is costly to decode."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return self.make(index)

    def for_score(self, index: int) -> Item:
        """Return an item to score, which may lack its image."""
        return (self.make_for_score or self.make)(index)


class Benchmark(Protocol):
    """A benchmark with its settings. Built from the settings of its entry in `spec.stages.evaluate.benchmarks`."""

    name: str
    """Name in metrics, as in the job."""
    max_new_tokens: int
    """Length of an answer, at most; 1 where nothing is answered in text."""

    def items(self, subject: Subject) -> Items:
        """Return what is asked, the same on every rank, all for text or all for images; empty: nothing can be asked.

        Each rank takes only some of the items: `LazyItems` reads those alone. Raises UserError for files that are
        missing or wrong.
        """
        ...

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Score all items, in their order; `seed` is for resampling. Called on one rank."""
        ...


class FileSink(Protocol):
    """Where a benchmark's files go."""

    @property
    def folder(self) -> str:
        """The folder, from the run's prefix on."""
        ...

    def write(self, path: str, content: bytes, /) -> None:
        """Keep `content` as `path` below the folder."""
        ...


@runtime_checkable
class NeedsFiles(Protocol):
    """What a benchmark has besides if it reads files that a person has to provide."""

    def check_files(self) -> None:
        """Raise UserError (66) that says which files are missing or wrong, where they come from, and their md5.

        Called by the stage `check`, on a CPU and before anything is trained.
        """
        ...


@runtime_checkable
class ReducesImages(Protocol):
    """What a benchmark has besides if its images are judged where they are generated, and not gathered."""

    def reduce(self, item: Item, image: np.ndarray, subject: Subject, files: FileSink) -> Any:
        """Return what takes the place of `image` in `score`: a JSON value. Called on the rank that generated it."""
        ...


@dataclass(frozen=True)
class BenchmarkPlace:
    """Where a benchmark stands: what its URIs count from, how they are reached, and what messages call it."""

    field: str
    """The benchmark in the job, e.g. `spec.stages.evaluate.benchmarks[0].mmvp`."""
    base: Path = Path()
    """The folder that relative URIs count from."""
    storage: StorageSpec | None = None
    """How `s3://` is spoken to; None: as the environment says."""
    cache: Path = PodEnvironment.cache
    """Where copies of objects may be kept."""
    files: str | None = None
    """URI of the folder with the benchmarks' files, spec.stages.evaluate.files; None: the job names none."""

    def open(self, name: str) -> Path:
        """Return a local path of the file `name` below `files`; an object is copied into the cache once.

        Raises UserError (66) where there is no such file, StorageError where trying again may help.
        """
        if self.files is None:
            raise UserError(
                f"{self.field} reads the file {name}, and the job names no folder with benchmarks' files",
                remedy=f"set spec.stages.evaluate.files to a folder that has {name}",
                exit_code=ExitCode.INPUT_MISSING,
            )
        return self.open_uri(f"{self.files.rstrip('/')}/{name}")

    def open_uri(self, uri: str) -> Path:
        """Return a local path of the file that a URI of the job names; as `open`."""
        folder, _, name = resolve_uri(uri, self.base).rpartition("/")
        name = unquote(name, errors="surrogateescape") if folder.startswith("file://") else name
        path: Path | None = None
        with suppress(NotFound):
            path = local_file(open_store(folder, self.storage), name, self.cache)
        if path is None or not path.is_file():
            raise UserError(
                f"{self.field}: there is no file {uri}",
                remedy="put it there, or correct the URI",
                exit_code=ExitCode.INPUT_MISSING,
            )
        return path


class BenchmarkFactory(Protocol):
    """What a benchmark's name stands for."""

    def __call__(self, settings: Mapping[str, Any], place: BenchmarkPlace, /) -> Benchmark:
        """Return the benchmark with its settings as in the job. Quick: files are opened when it is first asked.

        Raises UserError for settings that the benchmark does not take.
        """
        ...
