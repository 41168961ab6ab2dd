"""What `unimrg_api.arithmetic` computes without torch is what torch counts: parameters, operations, held bytes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.rows import PROMPTS, rng_for, task
from tests.support.one_step import FAMILIES, OBJECTIVES, freeze, planner_of, tiny_family
from tests.support.step_memory import ENVIRONMENT, SIZES
from unimrg_api.arithmetic.families import harmon, openuni, showo
from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import Trained, flops
from unimrg_api.arithmetic.layers import ANSWERS, BOTH, IMAGES, Counts
from unimrg_api.arithmetic.memory import Load, memory
from unimrg_api.arithmetic.rows import Forward, Texts
from unimrg_api.sizes.harmon import Kl16Config
from unimrg_api.sizes.openuni import DcAeConfig
from unimrg_api.sizes.showo import ClipConfig
from unimrg_api.spec_model import HarmonSpec, OpenUniSpec, ShowOSpec
from unimrg_api.spec_training import Recompute
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.models.common.attention import GroupedAttention
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.models.openuni.codec import DcAe
from unimrg_trainer.models.openuni.vision import VisionTower
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.showo.magvit import Magvit
from unimrg_trainer.models.showo.vision import build_tower, features
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition

META = torch.device("meta")
SPECS: dict[str, Any] = {"harmon": HarmonSpec, "openuni": OpenUniSpec, "showo": ShowOSpec}
VARIANTS = [
    *(("harmon", variant) for variant in ("Tiny", "0.5B", "1.5B")),
    *(("openuni", variant) for variant in ("Tiny", "B-512", "L-512")),
    *(("showo", variant) for variant in ("Tiny", "VQ-256", "VQ-512", "CLIP-256", "CLIP-512")),
]
BUILT: dict[str, Any] = {"harmon": harmon.arithmetic, "openuni": openuni.arithmetic, "showo": showo.arithmetic}
METHODS = {"SFT": (OBJECTIVES[:1], ANSWERS), "Pixel": (OBJECTIVES[1:2], IMAGES), "UniMRG": (OBJECTIVES, BOTH)}


def known(name: str, **settings: Any) -> FamilyArithmetic:
    return arithmetic_of(SPECS[name].model_validate({"variant": "Tiny", **settings}))


def tiny(name: str) -> FamilyArithmetic:
    return known(name, **({"dropout": "0"} if name == "harmon" else {}))


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_parameters_of_every_size_are_the_modules(name: str, variant: str) -> None:
    family, found = find_family(name, {"variant": variant}), known(name, variant=variant)
    with META:
        module = family.build()
    assert found.parameters == sum(p.numel() for p in module.parameters())
    for names, wanted in METHODS.values():
        frozen = family.frozen([objective(one) for one in names])
        trained = sum(p.numel() for key, p in module.named_parameters() if key not in frozen)
        assert sum(part.parameters for part in found.parts if part in Trained(wanted)) == trained


def convolution_backward(gradient: Any, _input: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """Torch's own count takes a convolution by groups for a dense one."""
    return int(2 * sum(rest[-1][:2]) * math.prod(weight[1:]) * math.prod(gradient))


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward}
    ) as counter:
        yield counter


def dense(batch: Any) -> Counts:
    """What torch counts: every score, whatever a mask hides."""
    if isinstance(batch.attention, GroupedAttention):
        groups = zip(batch.attention.queries, batch.attention.keys, strict=True)
        pairs = sum(queries.numel() * keys.shape[1] for queries, keys in groups)
    else:
        pairs = batch.sources.numel() * batch.sources.shape[1]
    return replace(batch.counts().computed(), pairs=pairs)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "composition, recompute, method, frozen",
    [
        (Composition.OFFICIAL, "Nothing", "UniMRG", ()),
        (Composition.OFFICIAL, "FeedForward", "Pixel", ()),
        (Composition.GROUPED, "Blocks", "UniMRG", ()),
        (Composition.GROUPED, "Nothing", "SFT", ()),
        (Composition.GROUPED, "Nothing", "UniMRG", ("LanguageModel",)),
    ],
)
def test_operations_are_those_that_torch_counts(
    name: str, composition: Composition, recompute: Recompute, method: str, frozen: tuple[str, ...]
) -> None:
    names, wanted = METHODS[method]
    family: Any = tiny_family(name)
    planner = planner_of(family, 2, names, composition=composition)
    batch = planner.plan_step(0, 0, 1).micro_steps[0].batch
    module = family.build().to(META)
    freeze(module, family.frozen(planner.objectives))
    for key, parameter in module.named_parameters():
        if any(key.startswith(family.parts()[part]) for part in frozen):
            parameter.requires_grad_(False)
    recompute_activations(module, recompute)
    prepared = family.prepare(batch, META, torch.float32)
    with counted() as forward:
        loss = module(prepared).sum()
    with counted() as backward:
        loss.backward()
    found = flops(tiny(name), dense(batch), Trained(wanted, frozen), recompute)
    assert found.forward == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert found.backward + found.repeated == pytest.approx(backward.get_total_flops(), rel=0.01)


def test_frozen_encoders_are_those_of_the_modules() -> None:
    with META:
        squares, images = torch.zeros(1, 3, 512, 512), torch.zeros(1, 336, 336, 3, dtype=torch.uint8)
        kl16, magvit, dc_ae, clip = Kl16(Kl16Config()), Magvit(), DcAe(DcAeConfig()), build_tower(ClipConfig())
        tower = VisionTower(find_family("openuni", {"variant": "L-512"}).config.vision, 1536)  # type: ignore[attr-defined]
    modules = {
        "kl16": (kl16, lambda: kl16.encode(squares)),
        "magvitv2": (magvit, lambda: magvit.encode(squares)),
        "dc-ae": (dc_ae, lambda: dc_ae.encode(squares)),
        "clip": (clip, lambda: features(clip, images)),
        "vision tower": (tower, lambda: tower(squares)),
    }
    encoders = [
        encoder
        for name, variant in (("harmon", "1.5B"), ("openuni", "L-512"), ("showo", "CLIP-512"))
        for encoder in known(name, variant=variant).encoders
    ]
    assert {encoder.name for encoder in encoders} == modules.keys()
    for encoder in encoders:
        module, run = modules[encoder.name]
        with torch.no_grad(), counted() as counter, META:
            run()
        assert encoder.parameters == sum(p.numel() for p in module.parameters()), encoder.name
        assert 2 * encoder.cost.multiplications == pytest.approx(counter.get_total_flops(), rel=0.01), encoder.name


def texts_of(family: Any) -> Texts:
    """Lengths of the texts in `rows_of_one_length`; what the tokenizer of the size Tiny needs more for the published
    openings than the published one is part of them."""
    template, image = family.template, {} if family.name == "showo" else {"with_image": True}
    asked = len(template.question(PROMPTS["Understanding"], **image))
    prompt = len(template.prompt(PROMPTS["Depth"], **({} if family.name == "harmon" else image)))
    if family.name == "showo":
        more, asked = 0, asked + len(template.system) - showo.SYSTEM
    else:
        more = len(template.opening()) - {"harmon": harmon, "openuni": openuni}[family.name].OPENING
    return Texts(asked + more, len(template.answer("in the middle")), prompt + more)


def rows_of_one_length(family: Any, samples: int) -> list[Any]:
    rows = family.plan("Understanding", [(n, task("Understanding", f"asked {n}")) for n in range(samples)], rng_for)
    for name in OBJECTIVES[1:]:
        tasks = [(n, replace(task(name, n), prompt=PROMPTS["Depth"])) for n in range(samples)]
        rows += family.plan(name, tasks, rng_for)
    return list(rows)


@pytest.mark.parametrize("composition", [Composition.OFFICIAL, Composition.GROUPED, Composition.FLEX])
@pytest.mark.parametrize("name", FAMILIES)
def test_planned_rows_are_those_of_a_batch(name: str, composition: Composition) -> None:
    """Harmon's targets are almost equally masked here."""
    rate = {"maskRate": {"mean": "0.9", "deviation": "0.001", "minimum": "0.85"}} if name == "harmon" else {}
    family: Any = find_family(name, {"variant": "Tiny", **rate})
    batch = family.collate(rows_of_one_length(family, 8), rng_for, composition)
    forward = Forward(8, True, 3, True, texts_of(family))
    packed, stacked = composition.packed, composition is Composition.GROUPED
    planned = asdict(known(name, **rate).counts(forward, packed=packed, stacked=stacked))
    found = asdict(batch.counts())
    for key in (
        "tokens",
        "computed_tokens",
        "pairs",
        "computed_pairs",
        "images",
        "targets",
        "shown",
        "masked",
        "coded",
        "looked_at",
    ):
        # chunks of one stack are filled up to the longest, and Tiny's tokenizer makes the system sentence longer
        tolerance = 0.07 if "pairs" in key else 0.02
        assert planned[key] == pytest.approx(found[key], rel=tolerance, abs=8), key
    assert planned["scored"] == pytest.approx(found["scored"], rel=0.2), "Show-o's mask rate is any"


@pytest.mark.parametrize(
    "name, size, recompute",
    [
        ("harmon", "wide", "Nothing"),
        ("harmon", "long", "Nothing"),
        pytest.param("openuni", "wide", "Blocks", marks=pytest.mark.slow),
        pytest.param("showo", "long", "Nothing", marks=pytest.mark.slow),
    ],
)
def test_memory_is_within_15_percent_of_the_measured_peak(name: str, size: str, recompute: Recompute) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.step_memory", name, size, recompute],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    measured, sized = json.loads(done.stdout), cast(Any, tiny_family(name))
    SIZES[size](sized)
    family = BUILT[name](sized.config)
    load = Load(Counts(**measured["counts"]), Trained(BOTH), "FP32", recompute, 1, 1)
    needed = memory(family, load, "DDP")
    # the vision tower was there before the measurement began
    assert needed.total - needed.encoders == pytest.approx(measured["peak"], rel=0.15)
