"""Looks into a training: they measure what they say, and change nothing of what is trained."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils
import torch.distributed as dist
from torch import Tensor, nn

from tests.support.checkpoints import Whole, assert_same, joined
from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.processes import run_ranks
from tests.support.toy_training import TOY_WEIGHTS, Toy, toy_loop, toy_step
from tests.support.train_stage import run_stage
from unimrg_api.spec_training import Recompute
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.diagnostics import compile_blocks
from unimrg_trainer.engine.metrics import StepMetrics
from unimrg_trainer.engine.rank_times import RankTimes, SlowestRank
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.tracking.segments import read_curves


def trained(every: int | None) -> tuple[Whole, list[StepMetrics]]:
    saved: list[Whole] = []
    points: list[StepMetrics] = []
    toy_loop(
        Toy(dropout=0.2),
        stop_step=4,
        save_every=4,
        save=lambda state, reason: saved.append(joined(state)),
        report=lambda measured: points.extend(measured.metrics),
        objective_norms_every=every,
    ).run(0)
    return saved[-1], points


@pytest.mark.usefixtures("process_group")
def test_measuring_gradient_norms_of_objectives_leaves_training_as_it_is() -> None:
    plain, _ = trained(None)
    measured, points = trained(2)
    assert_same(measured, plain)
    assert [bool(point.objective_norms) for point in points] == [False, True, False, True]


@pytest.mark.usefixtures("process_group")
def test_the_gradient_norm_of_an_objective_is_that_of_its_share_of_the_loss() -> None:
    """By autograd over the first step's rows of one objective, without the loop."""
    points: list[StepMetrics] = []
    toy_loop(
        Toy(), stop_step=1, save_every=1, save=lambda state, reason: None, objective_norms_every=1,
        report=lambda measured: points.extend(measured.metrics),
    ).run(0)  # fmt: skip
    for name in TOY_WEIGHTS:
        module = Toy()
        losses = []
        for one in toy_step(0).micro_steps:
            values = module(one.batch)
            losses += [
                value * weight
                for value, weight, row in zip(values, one.row_weights.float(), one.rows, strict=True)
                if row.objective == name
            ]
        gradients = torch.autograd.grad(sum(losses), [p for p in module.parameters() if p.requires_grad])  # type: ignore[arg-type]
        expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert points[0].objective_norms[name] == pytest.approx(float(expected), rel=1e-5)


class Sleeper(nn.Module):
    """Takes its time in a forward."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self) -> None:
        time.sleep(self.seconds)


def slowest_of_three(agreement: Agreement) -> Any:
    assert dist.group.WORLD is not None
    module = Sleeper(0.2 if agreement.rank == 1 else 0.01)
    times = RankTimes(module, torch.device("cpu"), dist.group.WORLD)
    module()
    module()
    module.eval()
    module()  # an evaluation is no step
    found = times.flush(2, 0.5 if agreement.rank == 2 else 0.0)
    return found, times.flush(1, 0.25 * (agreement.rank == 0))


def test_the_slowest_rank_is_named_with_its_ratio_to_the_median(tmp_path: Path) -> None:
    answers = run_ranks(3, tmp_path / "meeting", slowest_of_three)
    assert answers[0] == answers[1] == answers[2]
    first, second = answers[0]
    assert isinstance(first, SlowestRank)
    assert (first.rank, first.data_wait_seconds) == (2, 0.5)
    assert 0.01 <= first.forward_seconds < 0.2
    assert 1.0 < first.ratio <= 0.7 / 0.2
    assert (second.rank, second.forward_seconds, second.data_wait_seconds) == (0, 0.0, 0.25)


@pytest.mark.usefixtures("process_group")
def test_the_dry_run_is_no_part_of_a_ranks_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one with every look: a forward takes one, and a step has two."""
    clock = itertools.count()
    monkeypatch.setattr(RankTimes, "_now", lambda self: float(next(clock)))
    found: list[SlowestRank | None] = []
    toy_loop(
        Toy(), stop_step=1, save_every=1, save=lambda *_: None, report=lambda measured: found.append(measured.slowest)
    ).run(0)
    (slowest,) = found
    assert slowest is not None and slowest.forward_seconds == 2.0


class Stack(nn.Module):
    """Three blocks alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


@pytest.mark.parametrize("recompute", ["Nothing", "Blocks"])
def test_compiled_blocks_compute_the_same_with_and_without_recomputation(recompute: Recompute) -> None:
    """Without the code generator, which takes minutes on two cores; so it is the capture that is tested."""
    plain, compiled = Stack(), Stack()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert compile_blocks(compiled, backend="aot_eager") == 3
    recompute_activations(compiled, recompute)
    for module in (plain, compiled):
        module(torch.ones(2, 4)).square().sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for (name, one), (other_name, other) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == other_name
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.timeout(120)
def test_a_job_gets_its_trace_and_norms_with_deterministic_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = tiny_job(
        tmp_path,
        method="SFT",
        training__stopStep=3,
        training__precision="FP32",
        trainer__diagnostics={"gradientNormsEvery": 2, "profileStep": 1, "deterministic": "Always"},
    )
    prepare_data(job, tmp_path)
    try:
        run_stage(tmp_path, job, 1, monkeypatch)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    trace = json.loads(gzip.decompress((tmp_path / "run/logs/attempt-1/train/trace-from-step-1.json.gz").read_bytes()))
    assert any("addmm" in str(event.get("name")) for event in trace["traceEvents"])
    curves = read_curves(tmp_path / "pod-1" / "spool")
    # with one objective its norm is the norm of all
    assert curves["train/grad_norm/understanding"] == {2: pytest.approx(curves["train/grad_norm"][2], rel=1e-5)}
    assert curves["perf/slowest_rank"][2] == 0.0
