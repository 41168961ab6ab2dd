"""Puts the requests of a benchmark, or of the sample grid, to a model: in blocks, spread over the ranks of the job.

Blocks do not depend on the number of ranks, and a request's random numbers on neither, so results are the same at any
world size; a block that an earlier attempt finished is not asked again (`blocks.py`). Free of torch: the model and the
other ranks are behind protocols.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from unimrg_api.errors import Interrupted, UserError
from unimrg_trainer.evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkResult,
    FileSink,
    Item,
    Items,
    LazyItems,
    ReducesImages,
    Result,
    Subject,
)
from unimrg_trainer.evaluation.blocks import StoredBlocks, block_digest
from unimrg_trainer.evaluation.result import prefix_of
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

    @property
    def world_size(self) -> int: ...

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's share of the items."""
        ...

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Return all ranks' results in the order of the items that were shared."""
        ...


@dataclass(frozen=True)
class Asked:
    """A benchmark as an entry of the job asks for it."""

    benchmark: Benchmark
    settings: Any = None
    """Its settings as JSON: finished blocks of other settings are not taken for its own."""
    limit: int | None = None
    """A part of the benchmark is asked: its metrics are named `dev/…`."""

    @property
    def name(self) -> str:
        return self.benchmark.name

    @property
    def prefix(self) -> str:
        """How names of its metrics begin."""
        return prefix_of(self.limit)


@dataclass(frozen=True)
class Runner:
    """What benchmarks and the sample grid ask their requests with."""

    model: Model
    ranks: Ranks
    progress: Progress
    blocks: StoredBlocks | None = None
    """Where finished blocks are kept; None: nowhere."""
    sampling: str = ""
    """How images are generated: results about images differ with it, so they carry it."""
    evenly: bool = False
    """Every rank asks equally many blocks, some of them once more: for a `progress` that is a collective call."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Benchmarks that `measure` did not ask, and why."""

    def ask(
        self,
        items: Items,
        label: str,
        *,
        max_new_tokens: int = 1,
        settings: Any = None,
        reduce: Callable[[Item, np.ndarray], Any] | None = None,
    ) -> list[Result]:
        """Return the model's result for every item, on every rank. Items ask all for text, or all for images.

        `reduce` turns an image into what is returned in its place, on the rank that generated it.
        """
        if not len(items):
            return []
        size = ANSWER_BLOCK if isinstance(items[0].request, AnswerRequest) else IMAGE_BLOCK
        blocks = [range(first, min(first + size, len(items))) for first in range(0, len(items), size)]
        left_over = -len(blocks) % self.ranks.world_size if self.evenly else 0
        mine = self.ranks.share(blocks + blocks[-1:] * left_over)
        results: list[list[Result]] = []
        for done, block in enumerate(mine):
            self.progress(f"{label}, block", done, len(mine))
            asked = [items[index] for index in block]
            digest = ""
            if self.blocks is not None:
                digest = block_digest(
                    self.blocks.weights, asked, [max_new_tokens, settings], reduced=reduce is not None
                )
                if (found := self.blocks.find(digest, len(asked))) is not None:
                    results.append(found)
                    continue
            on_round = partial(self.progress, f"{label}, block {done + 1} of {len(mine)}, round")
            try:
                answers = self._block(asked, max_new_tokens, on_round)
                if reduce is not None:
                    reduced = [reduce(item, image) for item, image in zip(asked, answers, strict=True)]
                    answers = json.loads(json.dumps(reduced))  # as a later attempt would read them
            except (Interrupted, UserError):
                raise
            except Exception as error:  # whatever a model does with some items: they are what a person needs to know
                error.add_note(f"{label}: while asking the items {block[0]} to {block[-1]}: {_names(asked)}")
                raise
            if self.blocks is not None:
                self.blocks.keep(digest, answers)
            results.append(answers)
        gathered = self.ranks.gather(results)[: len(blocks)]
        return [result for block_results in gathered for result in block_results]

    def _block(self, items: Sequence[Item], max_new_tokens: int, on_round: Callable[[int, int], None]) -> list[Result]:
        texts = [item.request for item in items if isinstance(item.request, AnswerRequest)]
        images = [item.request for item in items if isinstance(item.request, GenerateRequest)]
        if texts and images:
            raise ValueError("some items ask for text and some for images; make two benchmarks of them")
        return [*self.model.answer(texts, max_new_tokens)] if texts else [*self.model.generate(images, on_round)]

    def measure(
        self, asked: Asked, subject: Subject, answers: Collection[type], seed: int, files: FileSink
    ) -> BenchmarkResult | None:
        """Return the result of a benchmark on rank 0, None elsewhere; `files` takes what it writes along the way.

        `answers` are the types of request that the model is fit for. A benchmark of another type, or without items, is
        left out: None.
        """
        benchmark = asked.benchmark
        items = benchmark.items(subject)
        kind = type(items[0].request) if len(items) else None
        if kind not in answers:
            reason = "nothing trains for what it asks" if len(items) else "the held-out data has nothing to ask about"
            logger.warning("the benchmark %s is left out: %s", asked.name, reason)
            self.left_out[asked.name] = reason
            return None
        reduce, settings = None, [asked.name, asked.settings]
        if isinstance(benchmark, ReducesImages):
            reduce = partial(benchmark.reduce, subject=subject, files=files)
            settings.append(files.folder)  # which has what it wrote
        results = self.ask(items, asked.name, max_new_tokens=benchmark.max_new_tokens, settings=settings, reduce=reduce)
        if self.ranks.rank != 0:
            return None
        item = items.for_score if isinstance(items, LazyItems) else items.__getitem__
        result = benchmark.score(((item(index), result) for index, result in enumerate(results)), seed)
        if self.sampling and kind is GenerateRequest:
            result = replace(result, provenance={**result.provenance, "sampling": self.sampling})
        return result if asked.limit is None else replace(result, limit=asked.limit)


def _names(items: Sequence[Item]) -> str:
    return ", ".join(item.key for item in items)[:2000]
