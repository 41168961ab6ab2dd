"""Photographs that packages ship: each with its licence, always the same squares, true depth of one of them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.dictionary_store import DictionaryStore
from unimrg_api.errors import JobError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.preparation.registry import open_sources
from unimrg_trainer.preparation.sources import photographs

SPECS = [SourceSpec.model_validate({"photographs": {"heldOut": 2}})]


def open_source() -> Any:
    return open_sources(SPECS, Path("/"))["photographs"]


def test_no_photograph_is_in_both_splits_and_each_has_a_licence() -> None:
    identity = open_source().identity()
    shown = {split: {entry["shows"] for entry in identity[split]} for split in ("train", "heldOut")}
    assert len(shown["train"]) == 12 and len(shown["heldOut"]) == 2 and not shown["train"] & shown["heldOut"]
    assert all(entry["licence"] and entry["sha256"] for split in shown for entry in identity[split])


def test_squares_cover_every_pixel_of_a_photograph() -> None:
    for height, width in ((512, 512), (300, 451), (500, 741), (1, 3)):
        side = min(height, width)
        seen = np.zeros((height, width), bool)
        for top in photographs._starts(height, side):
            for left in photographs._starts(width, side):
                assert 0 <= top <= height - side and 0 <= left <= width - side
                seen[top : top + side, left : left + side] = True
        assert seen.all()


def test_a_square_is_the_photographs_own_pixels() -> None:
    sample = open_source().sample("heldOut", 1)  # of the clock: the second of 300 × 300 pixels out of 300 × 400
    path = distribution("scikit-image").locate_file("skimage/data/clock_motion.png")
    expected = np.asarray(Image.open(str(path)).convert("RGB"))[:, 100:400]
    assert np.abs(sample.image.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))).max() < 0.5
    assert sample.image.shape == (256, 256, 3) and sample.caption == "A photograph of a blurred clock."
    assert {question["answer"] for question in sample.questions} == {"a blurred clock", "no"}


def test_depth_is_the_stereo_pairs_true_disparity() -> None:
    source = open_source()
    first = next(s for s in source._squares["train"] if s.side == 250 and (s.top, s.left) == (250, 0))
    sample = source.sample("train", source._squares["train"].index(first))
    with np.load(str(distribution("scikit-image").locate_file("skimage/data/motorcycle_disp.npz"))) as archive:
        disparity = archive["arr_0"][250:500, 0:250]
    known = np.isfinite(disparity)
    order = np.argsort(disparity[known])
    assert (np.diff(sample.maps["depth"][known][order].astype(int)) >= 0).all()  # nearer is never darker
    assert sample.maps["depth"].min() == 0 and sample.maps["depth"].max() == 255
    assert [bool(source.sample("train", n).maps) for n in (0, len(source._squares["train"]) - 1)] == [True, False]


def test_unknown_disparity_is_the_farther_neighbours(tmp_path: Path) -> None:
    nan = np.nan
    rows = np.array([[nan, 3, nan, nan, 1, nan], [5, nan, 7, nan, nan, 2]], np.float32)
    np.savez(tmp_path / "a.npz", rows)
    expected = [[3, 3, 1, 1, 1, 1], [5, 5, 7, 2, 2, 2]]
    np.testing.assert_array_equal(photographs._disparity(tmp_path / "a.npz"), expected)


def test_photographs_become_shards_that_are_read(dictionary_store: DictionaryStore) -> None:
    prepared = prepare(SPECS, Path("/"), dictionary_store, lambda *_: None)
    source, data = open_source(), Dataset.open(dictionary_store, "heldOut")
    manifest = json.loads(dictionary_store.objects[f"{prepared.prefix}/train/manifest.json"])
    assert "CC0, Rachel Michetti" in {
        entry["licence"] for entry in manifest["provenance"]["content"]["photographs"]["train"]
    }
    assert len(data.images) == source.splits["heldOut"]
    np.testing.assert_array_equal(data.image_sample(0).image, source.sample("heldOut", 0).image)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        if name == "scikit-image":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(photographs, "distribution", absent)
    with pytest.raises(JobError) as caught:
        open_source()
    (problem,) = caught.value.problems
    assert problem.exit_code == ExitCode.INPUT_MISSING and "of scikit-image are" in problem.message
    assert "unimrg[photographs]" in problem.remedy and problem.path == "spec.data.sources[0].photographs"
