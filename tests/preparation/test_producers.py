"""Producers of maps with tiny random models: the same map whatever is beside an image, against loops."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.support.dictionary_store import DictionaryStore
from tests.support.tiny_producers import DEPTH, IMAGES, bilinear, open_one, picture, save_depth_anything, save_hed
from unimrg_api.spec_maps import HedSpec, MapsSpec, SamSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.files import file_sha256
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.preparation.producers import hed, sam
from unimrg_trainer.preparation.producers.masks import Mask
from unimrg_trainer.preparation.producers.registry import open_producers
from unimrg_trainer.preparation.producers.sam import Sam
from unimrg_trainer.preparation.producers.weights import Weights


def sam_of(models: Path, style: str = "Contours", points: int = 4) -> Sam:
    spec = SamSpec.model_validate({"weights": "file://sam", "pointsPerSide": points, "style": style})
    weights = Weights("spec.data.maps.segmentation.sam", (models / "sam").as_uri(), None, None, models / "cache")
    return Sam(spec, weights, "cpu", least_iou=-9.0, least_stability=0.5)


@pytest.mark.parametrize(
    "maps", [DEPTH, {"segmentation": {"hed": {"weights": "file://hed.safetensors"}}}], ids=["depthAnything", "hed"]
)
def test_a_map_depends_on_its_image_alone(models: Path, maps: dict[str, Any]) -> None:
    producer = open_one(maps, models)
    together = producer.produce(IMAGES)
    for image, found in zip(IMAGES, together, strict=True):
        assert found.dtype == np.uint8 and found.shape == image.shape[:2]
        (alone,) = producer.produce([image])
        assert np.abs(found.astype(int) - alone).max() <= 1  # a matrix product may round otherwise in a batch
    assert len({found.tobytes() for found in together}) == len(IMAGES)


def test_depth_is_the_models_output_at_the_images_size(models: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation

    model = DepthAnythingForDepthEstimation.from_pretrained(models / "depth")
    image = IMAGES[2]
    # the shorter side 518, the longer one 777, which is 55.5 patches
    scaled = cv2.resize(image / 255.0, (784, 518), interpolation=cv2.INTER_CUBIC)
    pixels = (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        predicted = model(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)).predicted_depth.numpy()[0]
    height, width = image.shape[:2]
    expected = np.empty((height, width))
    for row in range(height):
        for column in range(width):  # bilinear, corners upon corners
            y, x = row * (predicted.shape[0] - 1) / (height - 1), column * (predicted.shape[1] - 1) / (width - 1)
            top, left = min(int(y), predicted.shape[0] - 2), min(int(x), predicted.shape[1] - 2)
            down, right = y - top, x - left
            (a, b), (c, d) = predicted[top : top + 2, left : left + 2]
            expected[row, column] = (a * (1 - right) + b * right) * (1 - down) + (c * (1 - right) + d * right) * down
    expected = (expected - expected.min()) / (expected.max() - expected.min()) * 255
    (found,) = open_one(DEPTH, models).produce([image])
    assert np.abs(found - np.floor(expected)).max() <= 1 and (found == np.floor(expected)).mean() > 0.95


class PlantedModel:
    """In place of SAM: at each point a disc, two overlapping squares of its quarter and nothing; estimates by place."""

    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64))

    def get_image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape == (1, 3, 64, 64)
        return pixels

    def __call__(self, image_embeddings: torch.Tensor, input_points: torch.Tensor, multimask_output: bool) -> Any:
        masks, scores = zip(*(planted(*point) for point in input_points[0, :, 0].tolist()), strict=True)
        return SimpleNamespace(
            pred_masks=torch.tensor(np.array(masks))[None], iou_scores=torch.tensor(np.array(scores))[None]
        )


def planted(x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Three masks at a point of a square of 64 pixels, as logits float32 [3, 32, 32], and their estimates."""
    rows, columns = np.mgrid[:32, :32] * 2 + 1.0
    disc = (6 - np.hypot(rows - y, columns - x)) * (0.2 if x < 32 else 5)  # some of them change with the threshold
    square = np.where((abs(rows - (y // 32 * 32 + 16)) < 12) & (abs(columns - (x // 32 * 32 + 16)) < 12), 9, -9)
    return np.array([disc, square, np.full((32, 32), -9)], np.float32), np.array([0.9 + x / 1000, 0.9 + y / 1000, 1.0])


@pytest.mark.parametrize("shape", [(40, 60), (23, 9)])
def test_sam_draws_what_passes_the_published_filters(models: Path, shape: tuple[int, int]) -> None:
    producer = Sam(
        SamSpec.model_validate({"weights": "file://sam", "pointsPerSide": 5}), sam_of(models)._weights, "cpu"
    )
    producer.__dict__["_model"] = PlantedModel()
    height, width = shape
    shown = [int(side * 64 / max(shape) + 0.5) for side in shape]
    candidates = []
    for j in range(5):
        for i in range(5):
            for logits, score in zip(*planted((i + 0.5) / 5 * shown[1], (j + 0.5) / 5 * shown[0]), strict=True):
                square = bilinear(logits, 64, 64)[: shown[0], : shown[1]]
                full = bilinear(square, height, width)
                if np.float32(score) > 0.88 and (full > 1).sum() >= 0.95 * (full > -1).sum() and (full > 0).any():
                    candidates.append((float(np.float32(score)), full > 0))
    kept: list[np.ndarray] = []
    for _, mask in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(box_overlap(mask, other) <= 0.7 for other in kept):
            kept.append(mask)
    assert 1 < len(kept) < len(candidates)
    expected = np.max([cv2.Canny(mask.astype(np.uint8) * 255, 100, 200) for mask in kept], axis=0)
    (found,) = producer.produce([picture(height, width)])
    np.testing.assert_array_equal(found, expected)


def test_masks_to_choose_from_take_little_memory(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates(_: np.ndarray) -> Iterator[tuple[Mask, float]]:
        for number in range(100):
            mask = np.zeros((1024, 1024), bool)
            mask[number:, : 1024 - number] = True
            yield Mask(mask, 0, 0), 1.0 - number / 1000

    producer = sam_of(models)
    monkeypatch.setattr(producer, "_candidates", candidates)
    tracemalloc.start()
    (best,) = producer.masks(IMAGES[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert best.pixels.all() and peak < 10 * best.pixels.nbytes


def box_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the boxes of two masks, from first to last pixel."""
    (t, l, b, r), (t2, l2, b2, r2) = (  # noqa: E741
        (rows.min(), columns.min(), rows.max(), columns.max()) for rows, columns in (np.nonzero(one), np.nonzero(other))
    )
    common = max(0, min(b, b2) - max(t, t2)) * max(0, min(r, r2) - max(l, l2))
    union = (b - t) * (r - l) + (b2 - t2) * (r2 - l2) - common
    return float(common / union) if union else 0.0


def test_a_tiny_sam_makes_contours_and_regions_alike(models: Path) -> None:
    contours, regions = sam_of(models).produce(IMAGES), sam_of(models, "Regions").produce(IMAGES)
    for image, lines, areas in zip(IMAGES, contours, regions, strict=True):
        assert lines.shape == image.shape[:2] and areas.shape == image.shape
        assert set(np.unique(lines)) <= {0, 255} and areas.dtype == np.uint8
    assert contours[0].any() and regions[0].any()
    for image, lines in zip(IMAGES, contours, strict=True):
        np.testing.assert_array_equal(sam_of(models).produce([image])[0], lines)


def test_sam_at_thresholds_that_nothing_passes_draws_black(models: Path) -> None:
    producer = sam_of(models)
    producer._least_iou = 1e9
    (found,) = producer.produce(IMAGES[:1])
    assert found.shape == (40, 60) and not found.any()


def test_hed_thins_the_networks_probabilities(models: Path) -> None:
    spec = HedSpec.model_validate({"weights": "file://hed.safetensors"})
    producer = hed.Hed(spec, Weights("f", (models / "hed.safetensors").as_uri(), None, None, models), "cpu")
    image = IMAGES[0]
    model = save_hed(models / "hed.safetensors")
    pixels = torch.tensor(image[:, :, ::-1] - np.array([104.00699, 116.66877, 122.67892]), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.sigmoid(model(pixels.permute(2, 0, 1)[None]))[0, 0].numpy()
    np.testing.assert_allclose(producer.probabilities(image), expected, atol=1e-4)
    assert set(np.unique(producer.produce([image])[0])) <= {0, 255}


def test_identity_is_of_contents_and_settings(models: Path, tmp_path: Path) -> None:
    save_depth_anything(tmp_path / "elsewhere")
    moved = {"depth": {"depthAnything": {"weights": "file://elsewhere"}}}
    identity = open_one(DEPTH, models).identity()
    assert open_one(moved, tmp_path).identity() == identity
    digest = file_sha256(models / "depth/model.safetensors")
    given = {"depth": {"depthAnything": {"weights": "file://depth", "sha256": digest}}}
    assert open_one(given, models).identity() == identity
    settings = (tmp_path / "elsewhere/config.json").read_text()
    (tmp_path / "elsewhere/config.json").write_text(settings.replace('"head_in_index": -1', '"head_in_index": -2'))
    assert open_one(moved, tmp_path).identity() != identity
    identities = [sam_of(models, style, points).identity() for style in ("Contours", "Regions") for points in (4, 8)]
    assert len({json.dumps(each) for each in identities}) == 4


def test_made_maps_lie_in_shards_beside_those_of_the_source(
    models: Path, tmp_path: Path, dictionary_store: DictionaryStore
) -> None:
    (tmp_path / "own").mkdir()
    for number, image in enumerate(IMAGES[:3]):
        (tmp_path / f"own/{number}.png").write_bytes(encode_png(image))
    (tmp_path / "own/1.depth.png").write_bytes(encode_png(np.full((33, 21), 9, np.uint8)))
    sources = [SourceSpec.model_validate({"folder": {"uri": "file://own", "heldOut": 1}})]
    spec = {**DEPTH, "segmentation": {"sam": {"weights": "file://sam", "pointsPerSide": 4, "style": "Regions"}}}
    maps = open_producers(MapsSpec.model_validate(spec), models, "cpu", cache=tmp_path)
    maps[1]._least_iou, maps[1]._least_stability = -9.0, 0.5  # type: ignore[attr-defined]
    first = prepare(sources, tmp_path, dictionary_store, lambda *_: None, maps=maps)
    assert prepare(sources, tmp_path, dictionary_store, lambda *_: None, maps=maps).digest == first.digest
    assert prepare(sources, tmp_path, dictionary_store, lambda *_: None, maps=maps[:1]).digest != first.digest
    samples = []
    for split, count in (("train", 2), ("heldOut", 1)):
        data = Dataset.open(dictionary_store, split, first.digest)
        samples += [data.image_sample(number) for number in range(count)]
    assert sorted(sample.image.shape for sample in samples) == sorted(image.shape for image in IMAGES[:3])
    for sample in samples:
        depth, regions = (producer.produce([sample.image])[0] for producer in maps)
        stored = np.full((33, 21), 9, np.uint8) if sample.image.shape == (33, 21, 3) else depth
        assert np.abs(sample.maps["depth"].astype(int) - stored).max() <= 1
        np.testing.assert_array_equal(sample.maps["segmentation"], regions)


def test_published_settings_are_the_defaults() -> None:
    assert SamSpec.model_validate({"weights": "file://x"}).points_per_side == 32
    assert (sam.LEAST_IOU, sam.LEAST_STABILITY, sam.STABILITY_OFFSET, sam.MOST_OVERLAP) == (0.88, 0.95, 1.0, 0.7)
