"""Rows, plans and modules of the small Harmon that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.config import config_of
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.packing.plan import Geometry, Plan, PlannedRow, pack_official
from unimrg_trainer.rng import generator

CPU = torch.device("cpu")

BRANCHES = {
    "Understanding": Branch("Where is the nearest object?", Geometry.PAD, answer="in the middle"),
    "Pixel": Branch("Describe the image in detail.", Geometry.SQUASH, representation="pixel"),
    "Depth": Branch("Generate the depth map of this image.", Geometry.SQUASH, representation="depth"),
    "Segmentation": Branch(
        "Generate the segmentation mask of this image.", Geometry.SQUASH, representation="segmentation"
    ),
}
TOKENS = config_of("Tiny").tokens
HIDDEN = {"Understanding": 0, "Pixel": TOKENS - 11, "Depth": TOKENS - 3, "Segmentation": TOKENS - 17}
"""Different for every objective, so that visible tokens are filled up."""


def address(objective: str, row: int, purpose: str) -> np.random.Generator:
    """The addressed randomness of a test."""
    return generator("test", objective, row, purpose)


def family(dropout: float = 0.0) -> HarmonFamily:
    return HarmonFamily("Tiny", dropout)


def perturbed(harmon: HarmonFamily, dtype: torch.dtype = torch.float64, seed: int = 3) -> Harmon:
    """A module none of whose weights has a special value (no zeros, no ones)."""
    torch.manual_seed(seed)
    module = harmon.build().to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.08)
    return module


def planned(harmon: HarmonFamily, objective: str, rows: Sequence[int]) -> list[PlannedRow]:
    """One row of an objective for each global row; sample = global row."""
    branch, hidden = BRANCHES[objective], HIDDEN[objective]
    if branch.answer is not None:
        branches = [replace(branch, prompt=branch.prompt + " Say it." * (row % 3)) for row in rows]
    else:
        branches = [branch for _ in rows]
    result = []
    for row, asked in zip(rows, branches, strict=True):
        segments, count = harmon.lay_out(asked, hidden)
        result.append(
            PlannedRow(objective, row, row, asked.geometry, segments, count, 1.0, asked.representation, hidden)
        )
    return result


def pictures(size: int, keys: Sequence[object]) -> np.ndarray:
    """A picture for each key, uint8 [len(keys), S, S, 3]: the same key, the same picture."""
    shape = (size, size, 3)
    drawn = [generator("picture", str(key)).integers(256, size=shape, dtype=np.uint8) for key in keys]
    return np.stack(drawn) if drawn else np.zeros((0, *shape), dtype=np.uint8)


def batch_of(harmon: HarmonFamily, plan: Plan, dtype: torch.dtype = torch.float64) -> HarmonBatch:
    """Collate a plan over made-up pictures that depend on what the plan names only."""
    images = pictures(harmon.image_size, [image.sample for image in plan.images])
    targets = pictures(harmon.image_size, [(t.sample, t.representation) for t in plan.targets])
    return harmon.collate(plan, images, targets, address).to(CPU, dtype)


def plan_of(harmon: HarmonFamily, objectives: Sequence[str], rows: Sequence[int]) -> Plan:
    return pack_official([row for name in objectives for row in planned(harmon, name, rows)])


def gradients(module: Harmon, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of every parameter that the loss reaches."""
    module.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_equal_gradients(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """‖Δ‖ ≤ 1e-9·‖g‖ + 1e-12·‖all g‖ for every tensor."""
    whole = torch.stack([g.norm() for g in one.values()]).norm()
    for name in one.keys() | other.keys():
        assert name in one and name in other, name
        difference = (one[name] - other[name]).norm()
        assert difference <= 1e-9 * one[name].norm() + 1e-12 * whole, (name, difference, one[name].norm())
