"""Recomputed activations change memory and nothing else; no checkpoint of ours is re-entrant."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models.rows import ALL, CPU, gradients, perturbed, rng_for, task
from tests.support.one_step import FAMILIES
from unimrg_api.spec_training import Recompute
from unimrg_trainer.engine.recompute import blocks, recompute_activations
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.packing.composition import Composition

TRAINER = Path(__file__).parents[2] / "trainer"
EXPECTED_BLOCKS = {
    "harmon": {"Qwen2DecoderLayer", "Block", "ResidualBlock"},
    "openuni": {"Qwen2DecoderLayer", "Layer", "SanaTransformerBlock"},
    "showo": {"PhiDecoderLayer"},
}


@pytest.mark.parametrize("policy", ["FeedForward", "Blocks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_gradients_and_dropout_stay_bit_for_bit(name: str, policy: Recompute) -> None:
    family = find_family(name, {"variant": "Tiny"})
    rows = [row for n in (0, 1) for one in ALL for row in family.plan(one, [(n, task(one, n))], rng_for)]
    batch = family.prepare(family.collate(rows, rng_for, Composition.GROUPED), CPU, torch.float32)
    found = []
    for chosen in ("Nothing", policy):
        module = perturbed(family, torch.float32)
        names = set(dict(module.named_parameters()))
        recompute_activations(module, chosen)
        assert set(dict(module.named_parameters())) == names
        torch.manual_seed(1)
        sums = module(batch)
        found.append((sums.detach(), gradients(module, sums.sum())))
    (sums, plain), (again, recomputed) = found
    assert torch.equal(sums, again)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_less_is_held_for_the_backward(name: str) -> None:
    family = find_family(name, {"variant": "Tiny"})
    rows = [row for one in ALL for row in family.plan(one, [(0, task(one, 0))], rng_for)]
    batch = family.prepare(family.collate(rows, rng_for, Composition.GROUPED), CPU, torch.float32)
    held = []
    for policy in ("Nothing", "FeedForward", "Blocks"):
        module = perturbed(family, torch.float32)
        recompute_activations(module, policy)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(batch)
        held.append(sum(sizes))
    assert held[0] > held[1] > held[2]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_blocks_are_the_layers_of_all_parts(name: str) -> None:
    module: nn.Module = find_family(name, {"variant": "Tiny"}).build()
    assert {type(block).__name__ for block in blocks(module)} == EXPECTED_BLOCKS[name]


def test_no_checkpoint_is_re_entrant() -> None:
    """A re-entrant one breaks with sharded strategies and with several backwards through one module."""
    calls = [
        (path, call)
        for path in TRAINER.rglob("*.py")
        if "torch.utils.checkpoint" in (text := path.read_text())
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call)
        and any(isinstance(name, ast.Name) and name.id == "checkpoint" for name in [call.func, *call.args])
    ]
    assert len(calls) >= 2
    for path, call in calls:
        chosen = {keyword.arg: keyword.value for keyword in call.keywords}.get("use_reentrant")
        assert isinstance(chosen, ast.Constant) and chosen.value is False, f"{path}:{call.lineno}"
