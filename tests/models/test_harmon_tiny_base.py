"""The weights that ship for the quick start: they fit, they see the image, and they were never taught its maps."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from tests.models.rows import CPU, rng_for
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.engine.initial_weights import WeightsSource, load_published
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.preparation.sources.scenes import HELD_OUT_START
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes import generate

BASE = Path(__file__).parents[2] / "examples" / "tiny_base" / "harmon-tiny.safetensors"
FAMILY = HarmonFamily({"variant": "Tiny", "dropout": "0", "maskRate": {"minimum": "0.95"}})
QUICK_START_SEED, COUNT = 7, 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Harmon:
    module = FAMILY.build().eval()
    load_published(module, WeightsSource(BASE.as_uri(), StorageSpec(), tmp_path_factory.mktemp("cache")))
    return module


@torch.no_grad()
def loss(base: Harmon, name: str, shift: int = 0) -> float:
    """Mean loss of a map of held-out scenes, each from the image of the scene `shift` places further."""
    scenes = [generate(QUICK_START_SEED, HELD_OUT_START + index, FAMILY.config.image_size) for index in range(COUNT)]
    maps = [{"depth": one.depth, "segmentation": one.segmentation} for one in scenes]
    asked = objective(name, "Canonical")
    tasks = []
    for index, own in enumerate(maps):
        sample = Sample(str(index), scenes[(index + shift) % COUNT].image, own)
        tasks.append((index, Task(sample, asked.inference_prompt(), map=asked.map)))
    rows = FAMILY.plan(name, tasks, rng_for)
    sums = base(FAMILY.prepare(FAMILY.collate(rows, rng_for), CPU, torch.float32))
    return float(sums.sum()) / sum(row.loss_terms for row in rows)


def test_it_is_small() -> None:
    assert BASE.stat().st_size <= 5_000_000


def test_it_draws_the_image_that_it_sees(base: Harmon) -> None:
    """From random weights the loss is about 2; the base of a failed run ignores the image and stays above 0.15."""
    assert loss(base, "Pixel") < 0.12


def test_it_has_not_learnt_to_draw_depth(base: Harmon) -> None:
    """What it draws when it is asked for depth has nothing to do with it: that is what the quick start teaches."""
    assert loss(base, "Depth") > 3 * loss(base, "Pixel")


def test_depth_does_not_come_from_the_image_yet(base: Harmon) -> None:
    assert loss(base, "Depth") > 0.8 * loss(base, "Depth", shift=1)


def test_the_script_that_made_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two steps of each stage, twice: the files are the same, and what they hold fits the model."""
    monkeypatch.syspath_prepend(str(BASE.parent))
    script = importlib.import_module("pretrain")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # it would hold for the tests that follow
    monkeypatch.setattr(script, "HELD_OUT", 8)
    monkeypatch.setattr(script, "REPORT_EVERY", 1)
    monkeypatch.setattr(script, "AUTOENCODER", script.Stage(steps=2, images=2))
    monkeypatch.setattr(script, "WHOLE_MODEL", script.Stage(steps=2, images=8))
    samples = [script.draw_scene(number) for number in range(20)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        script.pretrain(samples, 3, tmp_path / name / "w.safetensors", tmp_path / name)
    one, two = ((tmp_path / name / "w.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    load_published(FAMILY.build(), WeightsSource((tmp_path / "one").as_uri(), StorageSpec(), tmp_path / "cache"))
    table = (tmp_path / "one" / "tiny-base-curves.csv").read_text().splitlines()
    assert len(table) == 1 + 4 and (tmp_path / "one" / "tiny-base-curves.png").exists()
