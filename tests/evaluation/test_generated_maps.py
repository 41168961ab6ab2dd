"""The benchmark of generated maps: its items, and the scores of models that use the image or ignore it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.benchmark_subject import PLACE, subject
from tests.support.scene_records import SceneRecords
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, Item, Items
from unimrg_trainer.evaluation.benchmarks.generated_maps import (
    ANOTHER,
    CONTOURS,
    DISTANCE,
    MEAN_MAP,
    Baseline,
    GeneratedMaps,
    Pair,
    Score,
    objects,
    score_map,
    verdict,
)
from unimrg_trainer.evaluation.intervals import Interval
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.maps.registry import MAPS, find_map
from unimrg_trainer.models.requests import GenerateRequest
from unimrg_trainer.sample import Sample

SIZE = 32
COUNT = 12


def benchmark(data: Any, *names: str, images: int = COUNT) -> tuple[GeneratedMaps, Items, dict[str, ImageMap]]:
    maps = {name: find_map(name) for name in names}
    asked = GeneratedMaps({"images": images}, PLACE)
    return asked, asked.items(subject(data, list(maps.values()))), maps


def truths(items: Any, maps: dict[str, ImageMap]) -> list[tuple[Item, np.ndarray]]:
    """Every item with its true map."""
    listed = [items[index] for index in range(len(items))]
    return [(item, maps[item.attributes["map"]].target(item.truth, SIZE)) for item in listed]


def scored(shift: int, noise: float = 0.0) -> BenchmarkResult:
    """The result of a model that gives, for an image, the noisy truth of the image `shift` places further on."""
    asked, items, maps = benchmark(SceneRecords(COUNT), *MAPS)
    perfect = truths(items, maps)
    random = np.random.default_rng(1)
    results = []
    for index, (item, _) in enumerate(perfect):
        first = index - index % COUNT
        image = perfect[first + (index + shift) % COUNT][1] + random.normal(0, noise, size=(SIZE, SIZE, 3))
        results.append((item, np.clip(image, 0, 255).astype(np.uint8)))
    return asked.score(results, seed=0)


def test_it_asks_for_every_map_with_the_wording_of_inference() -> None:
    _, items, maps = benchmark(SceneRecords(5), "pixel", "depth", images=3)
    listed = [items[index] for index in range(len(items))]
    assert [(item.attributes["map"], item.key) for item in listed] == [
        (name, f"{number:06d}") for number in range(3) for name in ("pixel", "depth")
    ]
    for item in listed:
        assert isinstance(item.request, GenerateRequest)
        assert item.request.prompt == maps[item.attributes["map"]].canonical_prompt
        assert item.request.image is item.truth.image and item.request.row == int(item.key)


def test_a_map_that_an_image_has_no_truth_of_is_not_asked_for() -> None:
    class WithoutSomeMaps(SceneRecords):
        def image_sample(self, index: int, wanted: object = None, read: object = None) -> Sample:
            sample = super().image_sample(index)
            return sample if index == 1 else replace(sample, maps={})

    _, items, _ = benchmark(WithoutSomeMaps(3), "pixel", "depth")
    assert [(items[index].attributes["map"], items[index].key) for index in range(len(items))] == [
        ("pixel", "000000"),
        ("pixel", "000001"),
        ("depth", "000001"),
        ("pixel", "000002"),
    ]
    assert [len(benchmark(data, *names)[1]) for data, names in ((SceneRecords(3), ()), (None, ["pixel"]))] == [0, 0]


def test_a_perfect_model_has_perfect_scores_and_is_better_than_both_baselines() -> None:
    result = scored(shift=0)
    names = ("pixel/psnr", "depth/absrel", "depth/object_error", "depth/rho", "segmentation/f1")
    assert [result.metrics[name] for name in names] == pytest.approx([60, 0, 0, 1, 1])
    assert all(result.metrics[f"{name}_n"] == COUNT for name in names)
    assert result.lower_is_better == ("depth/absrel", "depth/object_error")
    assert result.headline == ("pixel/psnr", "depth/absrel", "segmentation/f1")
    assert [row[-1] for row in result.table.rows] == ["better"] * 5
    assert result.metrics["segmentation/f1_mean_map"] < 0.8
    assert result.metrics["segmentation/f1_gain_mean_map"] == pytest.approx(
        1 - result.metrics["segmentation/f1_mean_map"]
    )


def test_a_model_that_shows_another_image_is_never_better() -> None:
    result = scored(shift=1)
    assert not {row[-1] for row in result.table.rows} & {"better"}
    assert result.metrics["depth/absrel_gain_mean_map"] < 0
    # what it makes for other images suits this one as little as what it makes for this one
    low, high = (result.metrics[f"depth/absrel_gain_other_image_{end}"] for end in ("low", "high"))
    assert abs(result.metrics["depth/absrel_gain_other_image"]) < 0.1 and low < high


def test_the_means_lie_in_their_intervals() -> None:
    metrics = scored(shift=0, noise=150).metrics
    names = [name.removesuffix("_low") for name in metrics if name.endswith("_low")]
    assert len(names) == 5 * 3
    assert all(metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"] for name in names)


def test_the_baselines_of_depth_are_those_computed_by_hand() -> None:
    def pair(key: str, image: int, target: int) -> Pair:
        made = [np.full((2, 2, 3), value, np.uint8) for value in (image, target)]
        return Pair(made[0], made[1], Sample(key))

    scores = score_map([pair("a", 90, 100), pair("b", 200, 200)], DISTANCE, seed=0)
    (measure,) = scores  # without contours there are no objects, and one value has no order
    score = scores[measure]
    assert (measure.name, score.n, score.model) == ("absrel", 2, pytest.approx(0.05))
    assert score.baselines[MEAN_MAP].value == pytest.approx((50 / 100 + 50 / 200) / 2)
    assert score.baselines[ANOTHER].value == pytest.approx((100 / 100 + 110 / 200) / 2)
    assert score.baselines[ANOTHER].gain == pytest.approx(0.775 - 0.05)
    assert score.interval is not None and (score.interval.low, score.interval.high) == pytest.approx((0, 0.1))


def test_a_single_image_has_no_other_no_interval_and_no_verdict() -> None:
    target = np.zeros((4, 4, 3), np.uint8)
    target[1] = 255
    (score,) = score_map([Pair(target, target, Sample("a"))], CONTOURS, seed=0).values()
    assert score.model == 1.0 and score.interval is None and set(score.baselines) == {MEAN_MAP}
    assert verdict(score) == "unclear"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.1, 0.2), (0.1, 0.3), "better"),
        ((0.1, 0.2), (-0.1, 0.3), "unclear"),
        ((0.1, 0.2), (-0.3, -0.1), "worse"),
        ((0.0, 0.2), (0.1, 0.3), "unclear"),
    ],
)
def test_better_is_better_than_both(first: tuple[float, float], second: tuple[float, float], expected: str) -> None:
    baselines = {name: Baseline(0.0, 0.0, Interval(*ends)) for name, ends in ((MEAN_MAP, first), (ANOTHER, second))}
    assert verdict(Score(3, 0.0, None, baselines)) == expected


def test_objects_are_what_the_stored_contours_enclose_at_the_size_of_the_output() -> None:
    data = SceneRecords(1, size=48)
    target = np.zeros((24, 24, 3), np.uint8)
    found = objects(Pair(target, target, data.image_sample(0)))
    assert found.shape == (24, 24)
    assert abs(found.mean() - (data.scenes[0].instances > 0).mean()) < 0.02
    assert not objects(Pair(target, target, Sample("a"))).any()
