"""The published recipe (docs/method/recipe.md) written by hand: an oracle that shares no code with the trainer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unimrg_trainer.engine.step_plan import Step
from unimrg_trainer.models.base import Family

DECAYED = re.compile(
    "|".join(
        [
            r"llm\.model\.embed_tokens\.weight",
            r"llm\.model\.layers\.\d+\.self_attn\.[qkvo]_proj\.weight",
            r"llm\.model\.layers\.\d+\.mlp\.(gate|up|down)_proj\.weight",
            r"mar\.(fake_latent|mask_token)",
            r"mar\.(encoder|decoder|diffusion)_pos_embed_learned",
            r"mar\.(class_emb|z_proj|decoder_embed)\.weight",
            r"mar\.(encoder|decoder)_blocks\.\d+\.attn\.(qkv|proj)\.weight",
            r"mar\.(encoder|decoder)_blocks\.\d+\.mlp\.fc[12]\.weight",
            r"proj_(in|out)\.[02]\.weight",
        ]
    )
)
"""Names of Harmon's parameters that are decayed: matrices, tables and tokens outside the diffusion head."""


def reference_rate(peak: float, warmup: int, total: int, step: int) -> float:
    """The reference's learning rate: its scheduler at micro-iteration 4 · step + 3, three quarters into the step."""
    micro, rising, falling = 4 * step + 3, 4 * warmup, 4 * (total - warmup)
    if micro < rising:
        start = 1e-5 * peak
        return start + (peak - start) * micro / (rising - 1)
    return peak * math.cos(math.pi / 2 * (micro - rising) / falling) ** 2


def rate_by_hand(peak: float, warmup: int, total: int, step: int) -> float:
    """Ours: the same two phases, evaluated in the middle of the step."""
    if 2 * step + 1 < 2 * warmup:
        return peak * (1e-5 + 0.99999 * (2 * step + 1) / (2 * warmup))
    return peak * math.cos(math.pi / 4 * (2 * step + 1 - 2 * warmup) / (total - warmup)) ** 2


@dataclass(frozen=True)
class Recipe:
    """AdamW's numbers; the defaults are the published ones."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.02
    clip_norm: float = 1.0


@dataclass
class HandTrained:
    """What came out: weights and moments by name, and each step's gradient norm before clipping."""

    weights: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    norms: list[float] = field(default_factory=list)


def train_by_hand(
    family: Family, module: nn.Module, steps: Sequence[Step], rates: Sequence[float], recipe: Recipe
) -> HandTrained:
    """Train `module` itself in plain arithmetic; frozen parameters (`requires_grad` False) are left alone."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    means = {name: torch.zeros_like(parameter.detach()) for name, parameter in trained.items()}
    squares = {name: torch.zeros_like(parameter.detach()) for name, parameter in trained.items()}
    norms = []
    for count, (step, rate) in enumerate(zip(steps, rates, strict=True), start=1):
        module.zero_grad(set_to_none=True)
        for micro_step in step.micro_steps:
            batch = family.prepare(micro_step.batch, torch.device("cpu"), torch.float64)
            (module(batch) * micro_step.row_weights).sum().backward()
        with torch.no_grad():
            gradients = {name: parameter.grad for name, parameter in trained.items()}
            norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values() if g is not None))
            norms.append(norm)
            # torch divides by norm + 1e-6; Adam would hide a constant factor, but not one that differs by step
            scale = min(1.0, recipe.clip_norm / (norm + 1e-6))
            for name, weight in trained.items():
                gradient = gradients[name]
                assert gradient is not None, name
                gradient = gradient * scale
                means[name] = recipe.beta1 * means[name] + (1 - recipe.beta1) * gradient
                squares[name] = recipe.beta2 * squares[name] + (1 - recipe.beta2) * gradient * gradient
                mean = means[name] / (1 - recipe.beta1**count)
                square = squares[name] / (1 - recipe.beta2**count)
                decay = recipe.decay if DECAYED.fullmatch(name) else 0.0
                weight.copy_(weight - rate * decay * weight - rate * mean / (square.sqrt() + recipe.epsilon))
    return HandTrained({name: p.detach().clone() for name, p in module.named_parameters()}, means, squares, norms)


def assert_trained_alike(tensors: dict[str, Tensor], expected: HandTrained) -> None:
    """Assert that a checkpoint's tensors are the oracle's, to 1e-10 of each tensor's norm."""
    groups = {"model": expected.weights, "exp_avg": expected.means, "exp_avg_sq": expected.squares}
    named = {name for name in tensors if not name.startswith(("guard/", "data/"))}
    assert named == {f"{group}/{name}" for group, members in groups.items() for name in members}
    for group, members in groups.items():
        largest = max(float(value.norm()) for value in members.values())
        for name, value in members.items():
            difference = float((tensors[f"{group}/{name}"] - value).norm())
            # a gradient that is zero but for rounding (a key's bias) has no digits: it is measured by the largest
            assert difference <= 1e-10 * float(value.norm()) + 1e-16 * largest, f"{group}/{name}"
