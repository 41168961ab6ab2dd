"""The protocol of a benchmark: items that ask the model for text or images, and a score of what came.

A benchmark knows the data and how to score. The runner (`evaluation/runner.py`) batches the requests, spreads them over
the ranks and records the result; neither knows anything about the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unimrg_trainer.evaluation.result import BenchmarkResult, Table
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.sample import ALL, Sample, Wanted

__all__ = ["AsksForMaps", "Benchmark", "BenchmarkResult", "HeldOut", "Item", "Items", "LazyItems", "Result", "Table"]

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


class HeldOut(Protocol):
    """The held-out split of the data set, as far as benchmarks read it (`data/dataset.py`)."""

    images: range
    questions: range

    def image_sample(self, number: int, /) -> Sample: ...

    def question_sample(self, number: int, /, wanted: Wanted = ALL) -> Sample: ...


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


@runtime_checkable
class AsksForMaps(Protocol):
    """What a benchmark has besides if its items depend on the maps that the job trains."""

    def of_maps(self, maps: Sequence[ImageMap]) -> Benchmark:
        """Return the benchmark that asks for these maps, all that the job trains; none: it has no items."""
        ...


BenchmarkFactory = Callable[[Mapping[str, Any]], Benchmark]
"""(settings as JSON) → benchmark. Raises UserError for settings that the benchmark does not take."""
