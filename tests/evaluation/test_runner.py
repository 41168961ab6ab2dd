"""Benchmarks of a package are found, asked in blocks by any number of ranks, scored once, or left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.support.benchmark_subject import PLACE, subject
from tests.support.scene_records import SceneRecords
from unimrg_api.errors import Interrupted, UserError
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, Item, LazyItems, Table
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.runner import ANSWER_BLOCK, Runner
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest

TEXT, IMAGES = {AnswerRequest}, {GenerateRequest}


class EchoModel:
    """Answers with the prompt; an image is as grey as its row. `asked` are the sizes of its batches."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer(self, requests: Sequence[AnswerRequest], max_new_tokens: int) -> list[str]:
        self.asked.append(len(requests))
        return [request.prompt for request in requests]

    def generate(self, requests: Sequence[GenerateRequest], on_round: Callable[[int, int], None]) -> list[np.ndarray]:
        self.asked.append(len(requests))
        on_round(0, 1)
        return [np.full((4, 4, 3), request.row, np.uint8) for request in requests]


@dataclass
class ThreadRanks:
    """Ranks that are threads of this process."""

    rank: int = 0
    barrier: Barrier = field(default_factory=lambda: Barrier(1))
    parts: dict[int, Sequence[Any]] = field(default_factory=dict)

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        return items[self.rank :: self.barrier.parties]

    def gather(self, mine: Sequence[Any]) -> list[Any]:
        self.parts[self.rank] = mine
        self.barrier.wait()
        total = sum(map(len, self.parts.values()))
        size = self.barrier.parties
        return [self.parts[index % size][index // size] for index in range(total)]


def runner(model: EchoModel | None = None, ranks: ThreadRanks | None = None, progress: Any = None) -> Runner:
    return Runner(model or EchoModel(), ranks or ThreadRanks(), progress or (lambda what, done, total: None))


@pytest.mark.parametrize("request_type", [AnswerRequest, GenerateRequest])
def test_results_and_batches_are_those_of_one_rank_at_any_world_size(request_type: type) -> None:
    def make(number: int) -> Item:
        return Item("", AnswerRequest(str(number)) if request_type is AnswerRequest else GenerateRequest("", 1, number))

    def ask(rank: int, world_size: int, barrier: Barrier, parts: dict[int, Any]) -> tuple[list[Any], list[int]]:
        model = EchoModel()
        return runner(model, ThreadRanks(rank, barrier, parts)).ask(LazyItems(75, make), "toy"), model.asked

    expected, batches = ask(0, 1, Barrier(1), {})
    assert [str(result if isinstance(result, str) else result[0, 0, 0]) for result in expected] == [
        str(number) for number in range(75)
    ]
    for world_size in (2, 3, 5):
        barrier, parts = Barrier(world_size), dict[int, Any]()
        with ThreadPoolExecutor(world_size) as pool:
            ends = list(pool.map(lambda rank: ask(rank, world_size, barrier, parts), range(world_size)))  # noqa: B023
        assert all(np.array_equal(results, expected) for results, _ in ends)
        assert sorted(size for _, sizes in ends for size in sizes) == sorted(batches)


def test_images_of_a_share_are_read_once_before_they_are_scored() -> None:
    read: list[int] = []
    items = LazyItems(ANSWER_BLOCK + 1, lambda number: read.append(number) or Item("", AnswerRequest("")))  # type: ignore
    runner().ask(items, "toy")
    assert read == [0, *range(ANSWER_BLOCK + 1)], "the first tells what is asked for"


def test_a_stop_ends_the_work_between_blocks() -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Interrupted

    model = EchoModel()
    items = [Item("", AnswerRequest("")) for _ in range(3 * ANSWER_BLOCK)]
    with pytest.raises(Interrupted):
        runner(model, progress=stop).ask(items, "toy")
    assert model.asked == [ANSWER_BLOCK]


def test_items_that_mix_text_and_images_are_refused() -> None:
    with pytest.raises(ValueError, match="make two benchmarks"):
        runner().ask([Item("", AnswerRequest("")), Item("", GenerateRequest("", 0, 0))], "toy")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "toys"))


@pytest.mark.usefixtures("toys")
def test_benchmarks_of_a_package_are_found_by_name_and_scored() -> None:
    data = SceneRecords(3)
    words = runner().measure(find_benchmark("words", {"images": 3}, PLACE), subject(data), TEXT, seed=0)
    assert words is not None and words.metrics == {"mean": 3.0} and len(words.table.rows) == 3
    greys = runner().measure(find_benchmark("bright-and-dark", {}, PLACE), subject(), IMAGES, seed=0)
    assert greys is not None and greys.metrics == {"bright": 0.0, "dark": 1.0} and greys.headline == ("bright", "dark")


@pytest.mark.usefixtures("toys")
def test_a_benchmark_of_what_is_not_trained_is_left_out() -> None:
    data = subject(SceneRecords(1))
    assert runner().measure(find_benchmark("words", {}, PLACE), data, IMAGES, seed=0) is None
    assert runner().measure(find_benchmark("bright-and-dark", {}, PLACE), data, TEXT, seed=0) is None
    assert runner().measure(find_benchmark("bright-and-dark", {"prompts": []}, PLACE), data, IMAGES, seed=0) is None


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [("typo", {}, r"spatial, generatedMaps, .*words, bright-and-dark"), ("words", {"images": "two"}, "images: 'two'")],
)
def test_an_unknown_benchmark_and_wrong_settings_are_the_users(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        find_benchmark(name, settings, PLACE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("metrics", "headline", "cells", "said"),
    [
        ({"a=b": 1.0}, (), [], "name of a metric"),
        ({"acc": 1.0}, ("accuracy",), [], "headline"),
        ({"acc": 1.0}, ("acc",), ["one", "two"], "columns"),
    ],
)
def test_a_result_that_cannot_be_logged_or_shown_is_refused(
    metrics: dict[str, float], headline: tuple[str, ...], cells: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        BenchmarkResult(metrics, headline, Table("t", ["only"], [cells] if cells else []))
