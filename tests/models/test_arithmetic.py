"""What `unimrg_api.arithmetic` computes without torch is what torch counts: parameters, operations, held bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.one_step import FAMILIES, OBJECTIVES, freeze, planner_of, tiny_family
from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import flops, trains
from unimrg_api.arithmetic.layers import ANSWERS, BOTH, IMAGES, Counts
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
        assert sum(part.parameters for part in found.parts if trains(part, wanted)) == trained


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
    "composition, recompute, method",
    [
        (Composition.OFFICIAL, "Nothing", "UniMRG"),
        (Composition.OFFICIAL, "FeedForward", "Pixel"),
        (Composition.GROUPED, "Blocks", "UniMRG"),
        (Composition.GROUPED, "Nothing", "SFT"),
    ],
)
def test_operations_are_those_that_torch_counts(
    name: str, composition: Composition, recompute: Recompute, method: str
) -> None:
    names, wanted = METHODS[method]
    family: Any = tiny_family(name)
    planner = planner_of(family, 2, names, composition=composition)
    batch = planner.plan_step(0, 0, 1).micro_steps[0].batch
    module = family.build().to(META)
    freeze(module, family.frozen(planner.objectives))
    recompute_activations(module, recompute)
    prepared = family.prepare(batch, META, torch.float32)
    with counted() as forward:
        loss = module(prepared).sum()
    with counted() as backward:
        loss.backward()
    found = flops(tiny(name).parts, dense(batch), wanted, recompute)
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
