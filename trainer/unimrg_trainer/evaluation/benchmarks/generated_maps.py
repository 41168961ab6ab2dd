"""The benchmark of generated maps: how near what a model generates for held-out images comes to their true maps.

Every map that the job trains is generated for the same images, at the family's own size, and compared with the target
that training would have used. Two baselines show whether the model looks at its image. The *mean map* is what a
constant output could earn: the mean of the true maps, for contours at the threshold that suits these very truths best.
*Another* is what the model generated for another image, scored against this image's truth
(docs/method/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from unimrg_trainer.evaluation.benchmarks.base import (
    BenchmarkPlace,
    BenchmarkResult,
    Item,
    Items,
    LazyItems,
    Result,
    Subject,
    Table,
)
from unimrg_trainer.evaluation.derangement import derangement
from unimrg_trainer.evaluation.image_scores import (
    best_contours,
    contour_f1,
    enclosed,
    grey,
    mean_error,
    mean_image,
    psnr,
    rank_correlation,
    relative_error,
)
from unimrg_trainer.evaluation.intervals import Interval, bootstrap_ratio_interval, cluster_sums, interval_text
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.maps.geometry import resize, stretch
from unimrg_trainer.models.requests import GenerateRequest
from unimrg_trainer.sample import Sample

NOISE_SEED = 0
"""Seed of the requests: image number i has the same random numbers for every map, and after every training."""


class GeneratedMaps:
    """Generates maps of the first `images` held-out images; settings as in `spec.stages.evaluate.benchmarks`."""

    name = "generatedMaps"
    max_new_tokens = 1

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._images = int(settings["images"])
        self._maps: dict[str, ImageMap] = {}

    def items(self, subject: Subject) -> Items:
        """One item for each map that the job trains and image; a map that an image's truth is not known of is not
        asked for."""
        held_out = subject.held_out
        if held_out is None:
            return []
        self._maps = {map.name: map for map in subject.maps}
        asked = [  # image by image, so that each is decoded once for all its maps
            (map, number)
            for number in held_out.images[: self._images]
            for known in [held_out.image_sample(number).maps.keys()]
            for map in self._maps.values()
            if not map.stored or map.name in known
        ]

        def item(index: int) -> Item:
            map, number = asked[index]
            sample = held_out.image_sample(number)
            request = GenerateRequest(map.canonical_prompt, NOISE_SEED, number, sample.image)
            return Item(sample.key, request, sample, {"map": map.name})

        return LazyItems(len(asked), item)

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Metrics `MAP/MEASURE`, with what the baselines earn and the gains over them, and a row of the table each."""
        pairs: dict[str, list[Pair]] = {name: [] for name in self._maps}
        for item, image in results:
            assert isinstance(image, np.ndarray)
            name, sample = item.attributes["map"], item.truth
            pairs[name].append(Pair(image, self._maps[name].target(sample, len(image)), sample))
        return map_scores(pairs, "generated maps", seed)


@dataclass(frozen=True, eq=False)
class Pair:
    """What was generated for a sample, and what should have been: uint8 [S, S, 3] both."""

    image: np.ndarray
    target: np.ndarray
    sample: Sample


@dataclass(frozen=True, eq=False)
class Measure:
    """One number about a generated map."""

    name: str
    """In metrics."""
    label: str
    """In the table."""
    score: Callable[[np.ndarray, Pair], float]
    """(image, what it is compared with) → score; nan where the truth leaves it undefined."""
    higher_is_better: bool
    form: str = ".3f"


@dataclass(frozen=True, eq=False)
class Kind:
    """How one kind of map is scored."""

    measures: tuple[Measure, ...]
    """The first one is in the headline."""
    constant: Callable[[Sequence[np.ndarray]], np.ndarray]
    """The targets → the constant image, of their shape, that the model must beat."""


@dataclass(frozen=True)
class Score:
    """One measure of one map, as means over images."""

    n: int
    model: float
    interval: Interval | None
    """95 %, bootstrap over images; None with a single image."""
    baselines: dict[str, Baseline]


@dataclass(frozen=True)
class Baseline:
    """What something that does not look at the image earns."""

    value: float
    gain: float
    """How much better the model is; negative: it is worse."""
    interval: Interval | None
    """Of the gain: 95 %, paired bootstrap over images."""


MEAN_MAP, ANOTHER = "mean_map", "other_image"


def map_scores(pairs: Mapping[str, Sequence[Pair]], title: str, seed: int) -> BenchmarkResult:
    """Score what was generated of each map: metrics `MAP/MEASURE`, the first measure of each in the headline."""
    metrics: dict[str, float] = {}
    rows, headline, lower = [], [], []
    for name, of_map in pairs.items():
        scores = score_map(of_map, KINDS.get(name, PICTURE), seed) if of_map else {}
        for measure, one in scores.items():
            metrics |= {f"{name}/{metric}": value for metric, value in _metrics(measure, one).items()}
            rows.append(_cells(f"{name}: {measure.label}", measure, one))
        headline += [f"{name}/{measure.name}" for measure in list(scores)[:1]]
        lower += [f"{name}/{measure.name}" for measure in scores if not measure.higher_is_better]
    title = f"{title}; the verdict: against the mean map and another image's output"
    columns = ["map", "n", "model [95 %]", "mean map", "another", "verdict"]
    return BenchmarkResult(metrics, tuple(headline), Table(title, columns, rows), lower_is_better=tuple(lower))


def score_map(pairs: Sequence[Pair], kind: Kind, seed: int) -> dict[Measure, Score]:
    """Score what was generated of one map. A measure that no image has is left out; one image has no other."""
    constant = kind.constant([pair.target for pair in pairs])
    rivals = {MEAN_MAP: [constant] * len(pairs)}
    if len(pairs) > 1:
        rivals[ANOTHER] = [pairs[other].image for other in derangement(len(pairs), seed)]
    scores = {}
    for measure in kind.measures:
        values = np.array([measure.score(pair.image, pair) for pair in pairs])
        defined = np.isfinite(values)
        if not defined.any():
            continue
        keys = [pair.sample.key for pair, chosen in zip(pairs, defined, strict=True) if chosen]
        baselines = {}
        for name, images in rivals.items():
            of_rival = np.array([measure.score(image, pair) for image, pair in zip(images, pairs, strict=True)])
            gains = (values - of_rival if measure.higher_is_better else of_rival - values)[defined]
            baselines[name] = Baseline(
                float(of_rival[defined].mean()), float(gains.mean()), _interval(gains, keys, seed)
            )
        shown = values[defined]
        scores[measure] = Score(len(shown), float(shown.mean()), _interval(shown, keys, seed), baselines)
    return scores


def objects(pair: Pair) -> np.ndarray:
    """Return which pixels show objects, bool [S, S]: what the stored contours enclose; none where there are none."""
    size = len(pair.target)
    contours = pair.sample.maps.get("segmentation")
    if contours is None:
        return np.zeros((size, size), dtype=bool)
    inside = enclosed(contours if contours.ndim == 2 else contours[:, :, 0])
    scaled = resize(stretch(np.where(inside, 255, 0).astype(np.uint8)), size, Image.Resampling.NEAREST)
    return scaled >= 128


def _on_grey(score: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, Pair], float]:
    return lambda image, pair: score(grey(image), grey(pair.target))


def _best_contours(targets: Sequence[np.ndarray]) -> np.ndarray:
    return np.repeat(best_contours([grey(target) for target in targets])[:, :, None], 3, axis=2)


DISTANCE = Kind(
    (
        Measure("absrel", "relative error", _on_grey(relative_error), higher_is_better=False),
        Measure(
            "object_error",
            "error on objects",
            lambda image, pair: mean_error(grey(image), grey(pair.target), objects(pair)),
            higher_is_better=False,
        ),
        Measure("rho", "rank correlation", _on_grey(rank_correlation), higher_is_better=True, form=".2f"),
    ),
    mean_image,
)
CONTOURS = Kind((Measure("f1", "F1, 1 px", _on_grey(contour_f1), higher_is_better=True),), _best_contours)
PICTURE = Kind(
    (Measure("psnr", "PSNR, dB", lambda image, pair: psnr(image, pair.target), higher_is_better=True, form=".1f"),),
    mean_image,
)

KINDS = {"depth": DISTANCE, "segmentation": CONTOURS}
"""Map → how it is scored; any other map is compared as a picture."""


def _interval(values: np.ndarray, keys: Sequence[str], seed: int) -> Interval | None:
    return bootstrap_ratio_interval(*cluster_sums(values, keys), seed=seed)


def _metrics(measure: Measure, score: Score) -> dict[str, float]:
    metrics = {"": score.model, "n": float(score.n)} | _ends("", score.interval)
    for name, baseline in score.baselines.items():
        metrics |= {name: baseline.value, f"gain_{name}": baseline.gain} | _ends(f"gain_{name}_", baseline.interval)
    return {f"{measure.name}_{what}" if what else measure.name: value for what, value in metrics.items()}


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    return {f"{name}low": interval.low, f"{name}high": interval.high} if interval else {}


def _cells(label: str, measure: Measure, score: Score) -> list[str]:
    model = f"{score.model:{measure.form}} {interval_text(score.interval, measure.form)}"
    values = {name: f"{baseline.value:{measure.form}}" for name, baseline in score.baselines.items()}
    rivals = [values.get(name, "none") for name in (MEAN_MAP, ANOTHER)]
    return [label, str(score.n), model, *rivals, verdict(score)]


def verdict(score: Score) -> str:
    """`better` than both baselines or `worse` than one of them, where the intervals say so; else `unclear`."""
    intervals = [baseline.interval for baseline in score.baselines.values()]
    if any(interval is not None and interval.high < 0 for interval in intervals):
        return "worse"
    clear = len(intervals) == 2 and all(interval is not None and interval.low > 0 for interval in intervals)
    return "better" if clear else "unclear"
