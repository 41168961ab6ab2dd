"""What is not finite ends the training before it reaches a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import assert_same, checkpointer, joined, loaded_by
from tests.support.toy_training import TOY_WEIGHTS, Toy, micro_step, toy_loop, toy_step
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.engine.metrics import MetricsCollector, NonFiniteLossError
from unimrg_trainer.engine.step_plan import Step
from unimrg_trainer.storage import LocalStore

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_and_spares_the_commit(tmp_path: Path, poison: float) -> None:
    store = LocalStore(tmp_path / "run")
    saved: list[LocalState] = []

    def poisoned(number: int) -> Step:
        step = toy_step(number)
        if number != 2:
            return step
        first, *others = step.micro_steps
        weights = first.row_weights.clone()
        weights[0] = poison
        return Step(number, (replace(first, row_weights=weights), *others))

    def save(state: LocalState, reason: str) -> None:
        checkpointer(store).save(state, reason)
        saved.append(state)

    with pytest.raises(NonFiniteLossError, match="step 3") as caught:
        toy_loop(Toy(), stop_step=8, save_every=2, save=save, plan_step=poisoned).run(0)
    assert int(caught.value.exit_code) == 82
    assert caught.value.remedy
    assert [state.step for state in saved] == [2]
    loaded = loaded_by(checkpointer(store))
    assert loaded is not None
    assert_same(loaded[1], joined(saved[0]))
    assert all(bool(tensor.isfinite().all()) for tensor in loaded[1].tensors.values())


@pytest.mark.parametrize(
    ("sums", "norm"),
    [
        ([math.nan, 1.0], 1.0),
        ([1.0, math.inf], 1.0),
        ([math.inf, -math.inf], 1.0),
        ([1.0, 1.0], math.nan),
        ([1.0, 1.0], math.inf),
    ],
)
def test_one_bad_loss_or_gradient_norm_is_enough_and_its_step_is_named(sums: list[float], norm: float) -> None:
    collector = MetricsCollector(TOY_WEIGHTS)
    for step, (values, length) in enumerate([([1.0, 1.0], 1.0), (sums, norm), ([1.0, 1.0], 1.0)], start=41):
        collector.add_micro_step(micro_step([("Pixel", 0, 0.5), ("Depth", 0, 0.5)]), torch.tensor(values))
        collector.end_step(step, torch.tensor(length))
    with pytest.raises(NonFiniteLossError, match="step 42"):
        collector.flush()
