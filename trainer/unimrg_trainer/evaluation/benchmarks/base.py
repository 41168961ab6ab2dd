"""The protocol of a benchmark: items that ask the model for text or images, and a score of what came.

A benchmark knows the data and how to score. The runner (`evaluation/runner.py`) batches the requests, spreads them over
the ranks and records the result; neither knows anything about the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import FiniteFloat

from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.sample import Sample

_METRIC = re.compile(r"[A-Za-z0-9_\-. :/]{1,200}")

Result = str | np.ndarray
"""The answer to an AnswerRequest, or the image for a GenerateRequest: uint8 [H, W, 3], of the family's own size."""


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that is asked of the model, and what is needed to score the result."""

    key: str
    """Name of the item, unique within the benchmark or shared by items that are not independent."""
    request: AnswerRequest | GenerateRequest
    truth: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table as text. The first column is set to the left, the others, which hold numbers, to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class BenchmarkResult:
    """Scores of one benchmark. Raises ValueError for a name that MLflow would refuse, and for unequal rows."""

    metrics: dict[str, FiniteFloat]
    """Name without prefix → value; logged as `eval/<benchmark>/<name>`."""
    headline: tuple[str, ...]
    """The few metrics that the pod's termination message carries."""
    table: Table

    def __post_init__(self) -> None:
        unlawful = [name for name in self.metrics if not _METRIC.fullmatch(name)]
        if unlawful:
            raise ValueError(f"{unlawful[0]!r} cannot be the name of a metric: use letters, digits and _-. :/")
        unknown = set(self.headline) - set(self.metrics)
        if unknown:
            raise ValueError(f"the headline names {sorted(unknown)}, which are no metrics of this benchmark")
        if any(len(row) != len(self.table.columns) for row in self.table.rows):
            raise ValueError(f"the table {self.table.title!r} has rows that do not fit its columns")


class HeldOut(Protocol):
    """The held-out split of the data set, as far as benchmarks read it (`data/dataset.py`)."""

    images: range
    questions: range

    def image_sample(self, number: int, /) -> Sample: ...

    def question_sample(self, number: int, /, maps: Sequence[str] | None = None) -> Sample: ...


class Items(Protocol):
    """A list of items, or a `LazyItems`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


@dataclass(frozen=True, eq=False)
class LazyItems:
    """`count` items, each made when it is asked for, so that not all images are in memory at once."""

    count: int
    make: Callable[[int], Item]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return self.make(index)


class Benchmark(Protocol):
    """A benchmark with its settings. Built from the settings of its entry in `spec.stages.evaluate.benchmarks`."""

    name: str
    """Name in metrics, as in the job."""
    max_new_tokens: int
    """Length of an answer, at most; 1 where nothing is answered in text."""

    def items(self, held_out: HeldOut) -> Items:
        """Return what is asked, the same on every rank, all for text or all for images; empty: nothing can be asked.

        Each rank takes only some of the items: `LazyItems` reads those alone.
        """
        ...

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Score all items, in their order; `seed` is for resampling. Called on one rank."""
        ...


BenchmarkFactory = Callable[[Mapping[str, Any]], Benchmark]
"""(settings as JSON) → benchmark. Raises UserError for settings that the benchmark does not take."""
