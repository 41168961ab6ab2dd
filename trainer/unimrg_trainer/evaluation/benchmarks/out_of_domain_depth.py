"""Depth of images that are unlike those trained on, and that nobody measured: compared with Depth Anything's map.

Scored as `generatedMaps` scores depth, with its baselines; the truth is what the model by which training data gets its
depth says about the same image (docs/method/evaluation.md).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_maps import DepthAnythingSpec
from unimrg_trainer.data.decode import decode_image, encode_png, take_in
from unimrg_trainer.evaluation.benchmarks.base import (
    BenchmarkPlace,
    BenchmarkResult,
    FileSink,
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

if TYPE_CHECKING:
    from unimrg_trainer.preparation.producers.weights import Weights


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
        _ = self._images, self._weights.config()

    def items(self, subject: Subject) -> Items:
        """One item for each image; none where the job does not train depth."""
        self._device = subject.device
        self._depth = next((map for map in subject.maps if map.name == "depth"), None)
        return LazyItems(len(self._images), self._item) if self._depth else []

    def reduce(self, item: Item, image: np.ndarray, subject: Subject, files: FileSink) -> dict[str, str]:
        """Return what was generated and what the model of depth says, as PNG; both are kept as files too."""
        request = item.request
        assert self._depth is not None and isinstance(request, GenerateRequest) and request.image is not None
        (depth,) = self._producer.produce([request.image])
        truth = self._depth.target(Sample(item.key, maps={"depth": depth}), len(image))
        made = {"generated": encode_png(image), "truth": encode_png(truth[:, :, 0])}
        for name, content in made.items():
            files.write(f"{request.row:05d}-{name}.png", content)
        return {name: base64.b64encode(content).decode() for name, content in made.items()} | {
            "image_md5": hashlib.md5(np.ascontiguousarray(request.image).data, usedforsecurity=False).hexdigest()
        }

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Metrics `depth/MEASURE`, as `generatedMaps` has them."""
        digest, pairs = hashlib.md5(usedforsecurity=False), []
        for item, made in results:
            image, truth = (decode_image(base64.b64decode(made[name])) for name in ("generated", "truth"))
            pairs.append(Pair(image, truth, Sample(item.key)))
            digest.update(made["image_md5"].encode())
        identity = self._producer.identity()
        provenance = {
            "rule_set": "generated-maps-1",
            "data_md5": digest.hexdigest(),
            "judge": f"{identity['model']} {identity['version']}",
            "judge_sha256": identity["weights"],
        }
        found = map_scores({"depth": pairs}, "depth out of domain, against Depth Anything", seed)
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
        return Item(file.name, GenerateRequest(self._depth.canonical_prompt, NOISE_SEED, number, image))

    @cached_property
    def _files(self) -> Files:
        place = self._place
        return Files(
            self._settings["images"], SourcePlace(place.field, place.base, place.storage, place.cache), "images"
        )

    @cached_property
    def _images(self) -> list[File]:
        return images_of(self._files)[: self._limit]

    @cached_property
    def _weights(self) -> Weights:
        from unimrg_trainer.preparation.producers.weights import Weights  # torch, where it is asked for

        place, uri = self._place, resolve_uri(self._settings["weights"], self._place.base)
        return Weights(place.field, uri, None, place.storage, place.cache)

    @cached_property
    def _producer(self) -> MapProducer:
        from unimrg_trainer.preparation.producers.depth_anything import DepthAnything

        return DepthAnything(DepthAnythingSpec(weights=self._settings["weights"]), self._weights, self._device)
