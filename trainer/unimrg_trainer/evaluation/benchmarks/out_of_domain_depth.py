"""Depth of images that are unlike those trained on, and that nobody measured: compared with Depth Anything's map.

Scored as `generatedMaps` scores depth, with its baselines; the truth is what the model by which training data gets its
depth says about the same image (docs/method/evaluation.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_maps import DepthAnythingSpec
from unimrg_trainer.data.decode import take_in
from unimrg_trainer.evaluation.benchmarks.base import (
    BenchmarkPlace,
    BenchmarkResult,
    Item,
    Items,
    LazyItems,
    Result,
    Subject,
)
from unimrg_trainer.evaluation.benchmarks.generated_maps import NOISE_SEED, Pair, map_scores
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.requests import GenerateRequest
from unimrg_trainer.preparation.base import BadItem, SourcePlace
from unimrg_trainer.preparation.producers.base import MapProducer
from unimrg_trainer.preparation.sources.files import File, Files
from unimrg_trainer.preparation.sources.folder import images_of
from unimrg_trainer.sample import Sample

AT_ONCE = 8
"""Images that the model of depth is shown together."""


class OutOfDomainDepth:
    """Settings as in `spec.stages.evaluate.benchmarks`: the folder of images, the model's weights, and a limit."""

    name = "outOfDomainDepth"
    max_new_tokens = 1

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._settings, self._place = settings, place
        self._limit: int | None = settings.get("limit")
        self._device = "cpu"
        self._depth: ImageMap | None = None

    def check_files(self) -> None:
        """Raise UserError where there is no image, and where the model's weights are missing."""
        _ = self._images, self._producer("cpu").identity()

    def items(self, subject: Subject) -> Items:
        """One item for each image; none where the job does not train depth."""
        self._device = subject.device
        self._depth = next((map for map in subject.maps if map.name == "depth"), None)
        return LazyItems(len(self._images), self._item) if self._depth else []

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Metrics `depth/MEASURE`, as `generatedMaps` has them."""
        assert self._depth is not None
        generated = [(item.truth, image) for item, image in results]
        producer, digest = self._producer(self._device), hashlib.sha256()
        pairs: list[Pair] = []
        for start in range(0, len(generated), AT_ONCE):
            some = generated[start : start + AT_ONCE]
            depths = producer.produce([sample.image for sample, _ in some])
            for (sample, image), depth in zip(some, depths, strict=True):
                digest.update(sample.image.tobytes())
                known = replace(sample, image=None, maps={"depth": depth})
                pairs.append(Pair(image, self._depth.target(known, len(image)), known))
        found = map_scores({"depth": pairs}, "depth out of domain, against Depth Anything", seed)
        identity = producer.identity()
        provenance = {
            "rule_set": "generated-maps-1",
            "images_sha256": digest.hexdigest(),
            "judge": f"{identity['model']} {identity['version']}",
            "judge_sha256": identity["weights"],
        }
        return replace(found, provenance=provenance)

    def _item(self, number: int) -> Item:
        assert self._depth is not None
        file = self._images[number]
        try:
            image = take_in(self._files.read(file)).pixels
        except (BadItem, ValueError) as error:
            raise UserError(
                f"{self._place.field}.images: {file.name!r} of {self._settings['images']} is no image: {error}",
                remedy="take the file away, or put a whole one there",
                exit_code=ExitCode.DATA_CORRUPT,
            ) from error
        request = GenerateRequest(self._depth.canonical_prompt, NOISE_SEED, number, image)
        return Item(file.name, request, Sample(file.name, image))

    @cached_property
    def _files(self) -> Files:
        place = self._place
        return Files(
            self._settings["images"], SourcePlace(place.field, place.base, place.storage, place.cache), "images"
        )

    @cached_property
    def _images(self) -> list[File]:
        return images_of(self._files)[: self._limit]

    def _producer(self, device: str) -> MapProducer:
        from unimrg_trainer.preparation.producers.depth_anything import DepthAnything  # torch, where it is asked for
        from unimrg_trainer.preparation.producers.weights import Weights

        place, uri = self._place, self._settings["weights"]
        weights = Weights(place.field, resolve_uri(uri, place.base), None, place.storage, place.cache)
        return DepthAnything(DepthAnythingSpec(weights=uri), weights, device)
