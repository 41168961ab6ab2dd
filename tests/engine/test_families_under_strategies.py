"""Every family trains alike under every strategy: real gloo ranks, all objectives, recomputed blocks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist

from tests.support.one_step import FAMILIES, freeze, planner_of, tiny_family
from tests.support.processes import run_ranks
from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import OptimizerSpec, Precision
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.strategies.choose import build_strategy
from unimrg_trainer.engine.strategies.selfcheck import gathered

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
CPU = torch.device("cpu")


def two_steps(agreement: Agreement, family_name: str, name: StrategyName, precision: Precision) -> dict[str, Any]:
    """The loss of the second step and, as NumPy arrays, the weights after it."""
    family = tiny_family(family_name)
    planner = planner_of(family, micro_batch_rows=2)
    torch.manual_seed(5)
    module = family.build()
    freeze(module, family.frozen(planner.objectives))
    recompute_activations(module, "Blocks")
    make_optimizer = partial(build_optimizer, settings=OptimizerSpec(epsilon="1e-4"), decays=family.decays)
    strategy = build_strategy(name, module, make_optimizer, precision, CPU)
    for number in range(2):
        step = planner.plan_step(number, agreement.rank, agreement.world_size)
        loss = torch.zeros((), dtype=torch.float64)
        for index, micro_step in enumerate(step.micro_steps):
            batch = family.prepare(micro_step.batch, CPU, torch.float32)
            last = index == len(step.micro_steps) - 1
            sums = strategy.forward_backward(batch, micro_step.row_weights, sync_gradients=last)
            loss += (sums * micro_step.row_weights).sum()
        strategy.clip(1.0)
        strategy.step(1e-3)
    dist.all_reduce(loss)
    weights = gathered(strategy, 2).weights()
    strategy.close()
    return {"loss": loss.numpy(), **{name: weight.numpy() for name, weight in weights.items()}}


def differences(
    agreement: Agreement, family: str, expected: dict[str, Any], cases: list[tuple[StrategyName, Precision]]
) -> list[tuple[float, float]]:
    """For each case, how far the loss is from the expected one, and the weight that is furthest."""
    found = [two_steps(agreement, family, name, precision) for name, precision in cases]
    assert all(one.keys() == expected.keys() for one in found)
    return [
        (
            float(abs(one["loss"] - expected["loss"])),
            max(float(abs(one[key] - value).max()) for key, value in expected.items() if key != "loss"),
        )
        for one in found
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_alike_under_every_strategy(family: str, tmp_path: Path) -> None:
    """FP32: as one process does. BF16: the loss lies near that, but is not the same."""
    expected, *_ = run_ranks(1, tmp_path / "alone", two_steps, family, "DDP", "FP32")
    exact: list[tuple[StrategyName, Precision]] = [(name, "FP32") for name in NAMES]
    for found in run_ranks(2, tmp_path / "exact", differences, family, expected, exact):
        for case, (_, weight) in zip(exact, found, strict=True):
            assert weight < 1e-5, case
    rounded: list[tuple[StrategyName, Precision]] = [(name, "BF16") for name in ("DDP", "ZeRO1", "FSDP2")]
    for found in run_ranks(2, tmp_path / "rounded", differences, family, expected, rounded):
        for case, (loss, _) in zip(rounded, found, strict=True):
            assert 0 < loss < 5e-3 * expected["loss"], case
