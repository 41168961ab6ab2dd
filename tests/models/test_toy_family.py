"""A family that shares nothing with Harmon stands behind the same interface, found through an installed entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.scene_records import SceneRecords
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.step_plan import Step, StepPlanner
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.objectives.registry import in_order, objective

TOYS = Path(__file__).parents[1] / "toys"
CPU = torch.device("cpu")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.syspath_prepend(TOYS)
    return find_family("toy", {"width": 16})


def step_of(toy: Family, micro_batch_rows: int) -> Step:
    names = in_order(["brightness", "Understanding"])
    assert names == ["Understanding", "brightness"]
    planner = StepPlanner(
        family=toy,
        objectives=[objective(name) for name in names],
        objective_weights={"Understanding": 1.0, "brightness": 0.5},
        reader=RowReader(SceneRecords(4), seed=3),
        shape=BatchShape(rows=4, cohort_rows=2),
        micro_batch_rows=micro_batch_rows,
        seed=3,
    )
    return planner.plan_step(2, 0, 1)


def test_its_loss_and_gradient_do_not_depend_on_the_micro_batch(toy: Family) -> None:
    module = toy.build().double()
    gradients = []
    for micro_batch_rows in (1, 4):
        module.zero_grad()
        for one in step_of(toy, micro_batch_rows).micro_steps:
            sums = module(toy.prepare(one.batch, CPU, torch.float64))
            (sums * one.row_weights).sum().backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(module.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.any()
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12)


def test_it_learns_answers_and_a_map(toy: Family) -> None:
    torch.manual_seed(0)
    module = toy.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    step = step_of(toy, 4)
    for _ in range(30):
        (one,) = step.micro_steps
        loss = (module(toy.prepare(one.batch, CPU, torch.float32)) * one.row_weights.float()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_it_answers_and_generates_at_its_own_size(toy: Family) -> None:
    module = toy.build()
    picture = SceneRecords(1).image_sample(0).image
    requests = [GenerateRequest("Make it.", seed=1, row=row, image=picture) for row in (0, 1)]
    images = toy.generate(module, [*requests, GenerateRequest("A red circle.", seed=1, row=2)])
    assert [image.shape for image in images] == [(12, 12, 3)] * 3
    (alone,) = toy.generate(module, requests[1:])
    assert np.array_equal(alone, images[1]) and not np.array_equal(images[0], images[1])
    answers = toy.answer(module, [AnswerRequest("Why?", picture), AnswerRequest("Why?")], max_new_tokens=3)
    assert all(len(answer) <= 3 for answer in answers)
