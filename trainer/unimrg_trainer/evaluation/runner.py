"""Puts the requests of a benchmark, or of the sample grid, to a model: in blocks, spread over the ranks of the job.

Blocks do not depend on the number of ranks, and a request's random numbers on neither, so results are the same at any
world size. Free of torch: the model and the other ranks are behind protocols.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from unimrg_trainer.evaluation.benchmarks.base import Benchmark, BenchmarkResult, Items, Result, Subject
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_BLOCK = 32
"""Answers that are asked for at once."""
IMAGE_BLOCK = 4
"""Images that are asked for at once: generating one takes many rounds, so small blocks share the work better."""

Progress = Callable[[str, int, int], None]
"""Called as (what is counted, done, total) before every block and every round; may end the work by raising."""


class Model(Protocol):
    """A trained model that answers and generates."""

    def answer(self, requests: Sequence[AnswerRequest], max_new_tokens: int) -> list[str]: ...

    def generate(
        self, requests: Sequence[GenerateRequest], on_round: Callable[[int, int], None]
    ) -> list[np.ndarray]: ...


class Ranks(Protocol):
    """The ranks that share the work. Every rank makes the same calls."""

    @property
    def rank(self) -> int: ...

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's share of the items."""
        ...

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Return all ranks' results in the order of the items that were shared."""
        ...


@dataclass(frozen=True)
class Runner:
    """What benchmarks and the sample grid ask their requests with."""

    model: Model
    ranks: Ranks
    progress: Progress

    def ask(self, items: Items, label: str, *, max_new_tokens: int = 1) -> list[Result]:
        """Return the model's result for every item, on every rank. Items ask all for text, or all for images."""
        if not len(items):
            return []
        size = ANSWER_BLOCK if isinstance(items[0].request, AnswerRequest) else IMAGE_BLOCK
        blocks = [range(first, min(first + size, len(items))) for first in range(0, len(items), size)]
        mine = self.ranks.share(blocks)
        results: list[list[Result]] = []
        for done, block in enumerate(mine):
            self.progress(f"{label}, block", done, len(mine))
            requests = [items[index].request for index in block]
            texts = [request for request in requests if isinstance(request, AnswerRequest)]
            images = [request for request in requests if isinstance(request, GenerateRequest)]
            if texts and images:
                raise ValueError(f"{label}: items ask for text and for images; make two benchmarks of them")
            if texts:
                results.append([*self.model.answer(texts, max_new_tokens)])
            else:
                on_round = partial(self.progress, f"{label}, block {done + 1} of {len(mine)}, round")
                results.append([*self.model.generate(images, on_round)])
        return [result for block_results in self.ranks.gather(results) for result in block_results]

    def measure(
        self, benchmark: Benchmark, subject: Subject, trained: Collection[type], seed: int
    ) -> BenchmarkResult | None:
        """Return the result of a benchmark on rank 0, None elsewhere.

        `trained` are the types of request that the training made the model fit for. A benchmark of another type, or
        without items, is left out: None.
        """
        items = benchmark.items(subject)
        if not len(items) or type(items[0].request) not in trained:
            reason = "nothing trains for what it asks" if len(items) else "the held-out data has nothing to ask about"
            logger.warning("the benchmark %s is left out: %s", benchmark.name, reason)
            return None
        results = self.ask(items, benchmark.name, max_new_tokens=benchmark.max_new_tokens)
        if self.ranks.rank != 0:
            return None
        return benchmark.score(((items[index], result) for index, result in enumerate(results)), seed)
