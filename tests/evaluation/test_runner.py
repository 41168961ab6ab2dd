"""Benchmarks of a package are found, asked in blocks by any number of ranks, scored once, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.support.benchmark_subject import PLACE, Files, subject
from tests.support.scene_records import SceneRecords
from unimrg_api.errors import Interrupted, UserError
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, FileSink, Item, LazyItems, Subject, Table
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.blocks import StoredBlocks, remove_others
from unimrg_trainer.evaluation.runner import ANSWER_BLOCK, IMAGE_BLOCK, Asked, Runner
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.storage.local import LocalStore

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

    @property
    def world_size(self) -> int:
        return self.barrier.parties

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

    def ask(
        rank: int, world_size: int, barrier: Barrier, parts: dict[int, Any], evenly: bool = False
    ) -> tuple[list[Any], list[int]]:
        model = EchoModel()
        one = replace(runner(model, ThreadRanks(rank, barrier, parts)), evenly=evenly)
        return one.ask(LazyItems(75, make), "toy"), model.asked

    expected, batches = ask(0, 1, Barrier(1), {})
    assert [str(result if isinstance(result, str) else result[0, 0, 0]) for result in expected] == [
        str(number) for number in range(75)
    ]
    for world_size in (2, 3, 5):
        barrier, parts = Barrier(world_size), dict[int, Any]()
        with ThreadPoolExecutor(world_size) as pool:
            ends = list(pool.map(partial(ask, world_size=world_size, barrier=barrier, parts=parts), range(world_size)))
        assert all(np.array_equal(results, expected) for results, _ in ends)
        assert sorted(size for _, sizes in ends for size in sizes) == sorted(batches)
        parts.clear()
        with ThreadPoolExecutor(world_size) as pool:
            evenly = partial(ask, world_size=world_size, barrier=barrier, parts=parts, evenly=True)
            ends = list(pool.map(evenly, range(world_size)))
        assert all(np.array_equal(results, expected) for results, _ in ends)
        assert len({len(sizes) for _, sizes in ends}) == 1


def test_images_of_a_share_are_read_once_before_they_are_scored() -> None:
    read: list[int] = []

    def item(number: int) -> Item:
        read.append(number)
        return Item("", AnswerRequest(""))

    items = LazyItems(ANSWER_BLOCK + 1, item)
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


def measured(name: str, settings: dict[str, Any], data: Any, answers: set[type]) -> BenchmarkResult | None:
    asked, one = Asked(find_benchmark(name, settings, PLACE), settings), runner()
    result = one.measure(asked, subject(data), answers, 0, Files())
    assert (result is None) == (name in one.left_out), "results name it and the reason"
    return result


@pytest.mark.usefixtures("toys")
def test_benchmarks_of_a_package_are_found_by_name_and_scored() -> None:
    words = measured("words", {"images": 3}, SceneRecords(3), TEXT)
    assert words is not None and words.metrics == {"mean": 3.0} and len(words.table.rows) == 3
    greys = measured("bright-and-dark", {}, None, IMAGES)
    assert greys is not None and greys.metrics == {"bright": 0.0, "dark": 1.0} and greys.headline == ("bright", "dark")


@pytest.mark.usefixtures("toys")
def test_a_result_about_images_says_how_they_were_generated() -> None:
    found = []
    for name, settings in (("bright-and-dark", {}), ("words", {"images": 3})):
        one = replace(runner(), sampling="steps 4")
        asked = Asked(find_benchmark(name, settings, PLACE), settings)
        found.append(one.measure(asked, subject(SceneRecords(3)), TEXT | IMAGES, 0, Files()))
    assert [result is not None and result.provenance.get("sampling") for result in found] == ["steps 4", None]


@pytest.mark.usefixtures("toys")
def test_a_benchmark_of_what_is_not_trained_is_left_out() -> None:
    data = SceneRecords(1)
    assert measured("words", {}, data, IMAGES) is None
    assert measured("bright-and-dark", {}, data, TEXT) is None
    assert measured("bright-and-dark", {"prompts": []}, data, IMAGES) is None


class Counted:
    """Asks for `count` answers, or for images that it reduces to their mean grey and a file each."""

    name, max_new_tokens = "counted", 1

    def __init__(self, count: int) -> None:
        self.count = count

    def items(self, subject: Subject) -> list[Item]:
        return [Item(f"item-{n}", AnswerRequest(str(n))) for n in range(self.count)]

    def score(self, results: Iterable[tuple[Item, Any]], seed: int) -> BenchmarkResult:
        rows = [[item.key, str(result)] for item, result in results]
        return BenchmarkResult({}, (), Table("", ["item", "result"], rows))


class Reduced(Counted):
    def items(self, subject: Subject) -> list[Item]:
        return [Item(f"item-{n}", GenerateRequest("", 0, n)) for n in range(self.count)]

    def reduce(self, item: Item, image: np.ndarray, subject: Subject, files: FileSink) -> Any:
        files.write(f"{item.key}.txt", str(image.mean()).encode())
        return {"mean": image.mean()}


class Killed(BaseException):
    pass


class DyingModel(EchoModel):
    """Is killed when it is asked for a further block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def answer(self, requests: Sequence[AnswerRequest], max_new_tokens: int) -> list[str]:
        self._count()
        return super().answer(requests, max_new_tokens)

    def generate(self, requests: Sequence[GenerateRequest], on_round: Callable[[int, int], None]) -> list[np.ndarray]:
        self._count()
        return super().generate(requests, on_round)

    def _count(self) -> None:
        if len(self.asked) == self.blocks:
            raise Killed


@pytest.mark.parametrize("benchmark", [Counted(3 * ANSWER_BLOCK), Reduced(3 * IMAGE_BLOCK)])
def test_what_was_finished_before_a_kill_is_not_asked_again(benchmark: Counted, tmp_path: Path) -> None:
    def measure(model: EchoModel, weights: str = "w") -> list[list[str]]:
        one = Runner(model, ThreadRanks(), lambda *_: None, StoredBlocks(LocalStore(tmp_path), weights))
        result = one.measure(Asked(benchmark, {}), subject(), TEXT | IMAGES, 0, files)
        assert result is not None
        return result.table.rows

    files = Files()
    with pytest.raises(Killed):
        measure(DyingModel(2))
    again, others = EchoModel(), EchoModel()
    rows = measure(again)
    assert len(again.asked) == 1 and [name for name, _ in rows] == [f"item-{n}" for n in range(benchmark.count)]
    assert rows == measure(others, "other weights") and len(others.asked) == 3
    if isinstance(benchmark, Reduced):
        assert files == {f"item-{n}.txt": f"{n:.1f}".encode() for n in range(benchmark.count)}
    remove_others(LocalStore(tmp_path), {"w"})
    assert measure(once_more := DyingModel(0)) == rows and not once_more.asked, "with another benchmark, e.g."
    with pytest.raises(Killed):
        measure(DyingModel(0), "other weights")


def test_images_come_back_from_a_finished_block_as_they_were(tmp_path: Path) -> None:
    items = [Item("", GenerateRequest("", 0, row)) for row in range(3)]
    blocks = StoredBlocks(LocalStore(tmp_path), "w")
    first, second = (Runner(model, ThreadRanks(), lambda *_: None, blocks) for model in (EchoModel(), DyingModel(0)))
    fresh, blocks._there = first.ask(items, "toy"), None
    assert all(np.array_equal(one, other) for one, other in zip(fresh, second.ask(items, "toy"), strict=True))
    (file,) = tmp_path.rglob("results/blocks/*/*")
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole[:60] + bytes(9) + whole[69:], b"[1", b""):
        file.write_bytes(damaged)
        assert StoredBlocks(LocalStore(tmp_path), "w").find(file.name, 3) is None, "it is asked again"


def test_an_error_names_the_items_of_its_block() -> None:
    class Breaking(EchoModel):
        def answer(self, requests: Sequence[AnswerRequest], max_new_tokens: int) -> list[str]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError) as caught:
        runner(Breaking()).ask([Item("left-of-bench", AnswerRequest("?"))], "toy")
    assert "left-of-bench" in "".join(caught.value.__notes__)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [("typo", {}, "spatial, generatedMaps, .*words, bright-and-dark"), ("words", {"images": "two"}, "images: 'two'")],
)
def test_an_unknown_benchmark_and_wrong_settings_are_the_users(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_benchmark(name, settings, PLACE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("metrics", "headline", "cells", "message"),
    [
        ({"a=b": 1.0}, (), [], "name of a metric"),
        ({"acc": 1.0}, ("accuracy",), [], "headline"),
        ({"acc": 1.0}, ("acc",), ["one", "two"], "columns"),
    ],
)
def test_a_result_that_cannot_be_logged_or_shown_is_refused(
    metrics: dict[str, float], headline: tuple[str, ...], cells: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkResult(metrics, headline, Table("t", ["only"], [cells] if cells else []))
