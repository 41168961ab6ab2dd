"""A training step reads nothing back from the device but what the metrics collector flushes.

On the device `meta` tensors have no values: whatever would wait for one (`item`, a boolean index, `nonzero`, a copy to
the host) raises. So the same step that runs on a GPU is run there whole.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.support.one_step import FAMILIES, freeze, planner_of, tiny_family
from unimrg_api.spec_training import GuardSpec, OptimizerSpec, Recompute
from unimrg_trainer.engine.guard import NumericGuard
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.optimizer import build_optimizer, set_learning_rate
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.strategies.base import StepModule
from unimrg_trainer.models.common import attention
from unimrg_trainer.packing.composition import Composition

META = torch.device("meta")


@pytest.mark.parametrize("recompute", ["Nothing", "Blocks"])
@pytest.mark.parametrize("composition", Composition)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_step_waits_for_no_value(
    name: str, composition: Composition, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention itself has no backward without a GPU: it is left out, its block mask is built."""
    monkeypatch.setattr(attention, "flex_attention", lambda query, *_, **__: query)
    family = tiny_family(name)
    planner = planner_of(family, 4, composition=composition)
    step = planner.plan_step(0, 0, 1)
    module = family.build().to(META)
    freeze(module, family.frozen(planner.objectives))
    recompute_activations(module, recompute)
    optimizer = build_optimizer(module, OptimizerSpec(), family.decays)
    collector = MetricsCollector(planner.objective_weights)
    guard = NumericGuard(GuardSpec(spike_threshold="6", spike_window=8), META)
    monkeypatch.setattr(dist, "all_reduce", lambda losses: None)
    set_learning_rate(optimizer, 1e-3)
    for micro_step in step.micro_steps:
        batch = family.prepare(micro_step.batch, META, torch.float32)
        loss, sums = StepModule(module)(batch, micro_step.row_weights.to(META))
        loss.backward()
        collector.add_micro_step(micro_step, sums)
    norm = nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], 1.0)
    losses = collector.reduced_losses()
    skip = guard.judge(losses.sum(), norm)
    collector.end_step(1, losses, norm, skip)
    assert norm.device == skip.device == META


@pytest.mark.parametrize(
    "read", [lambda x: x.item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.cpu(), lambda x: bool(x.any())]
)
def test_reading_a_value_would_be_seen(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(RuntimeError):  # NotImplementedError is one
        read(torch.ones(1, device=META))
