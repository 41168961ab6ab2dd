"""Samples, tasks and perturbed modules that the tests of every family share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

CPU = torch.device("cpu")
SIDE = (40, 28)
"""Height and width of the test images: padding and squashing give different squares."""

PROMPTS = {
    "Understanding": "Where is the nearest object?",
    "Pixel": "Describe the image in detail.",
    "Depth": "Generate the depth map of this image.",
    "Segmentation": "Generate the segmentation mask of this image.",
}
ALL = tuple(PROMPTS)


def rng_for(objective: str, row: int, purpose: str) -> np.random.Generator:
    return generator("test", objective, row, purpose)


def perturbed(family: Family, dtype: torch.dtype = torch.float64) -> Any:
    """A module none of whose weights has a special value (no zeros, no ones)."""
    torch.manual_seed(3)
    module = family.build().to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.08)
    return module


def picture(key: object, *shape: int) -> np.ndarray:
    """Noise, uint8: the same key, the same picture."""
    return generator("picture", str(key)).integers(256, size=shape or (*SIDE, 3), dtype=np.uint8)


def sample(key: object, *, image: bool = True) -> Sample:
    maps = {name: picture((key, name), *SIDE) for name in ("depth", "segmentation")}
    return Sample(str(key), picture(key) if image else None, maps, question="", answer="in the middle")


def task(objective: str, key: object, *, image: bool = True, **changes: str) -> Task:
    """What an objective asks about the sample `key`."""
    if objective == "Understanding":
        answer = changes.get("answer", "in the middle")
        return Task(sample(key, image=image), changes.get("prompt", PROMPTS[objective]), answer=answer)
    return Task(sample(key, image=image), PROMPTS[objective], map=find_map(objective.lower()))


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter that the loss reaches."""
    module.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_equal_gradients(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """‖Δ‖ ≤ 1e-9·‖g‖ + 1e-12·‖all g‖ for every tensor."""
    whole = torch.stack([g.norm() for g in one.values()]).norm()
    for name in one.keys() | other.keys():
        assert name in one and name in other, name
        difference = (one[name] - other[name]).norm()
        assert difference <= 1e-9 * one[name].norm() + 1e-12 * whole, (name, difference, one[name].norm())
