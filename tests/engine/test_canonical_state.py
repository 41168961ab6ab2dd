"""A state that was taken out and put into a fresh model and optimiser trains on as if nothing had happened."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.checkpoints import checkpointer
from tests.support.toy_training import Toy, toy_loop, toy_optimizer, toy_step
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.engine.canonical_state import export_state, import_state, import_weights
from unimrg_trainer.storage import LocalStore


def train(module: nn.Module, optimizer: torch.optim.AdamW, numbers: range) -> None:
    """Plain steps, one per number, at a fixed rate."""
    for group in optimizer.param_groups:
        group["lr"] = 0.03
    for number in numbers:
        for one in toy_step(number).micro_steps:
            (module(one.batch) * one.weights.float()).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def went_on(state: TrainingState, numbers: range) -> dict[str, Tensor]:
    """Weights after more steps of a fresh model with other weights, into which `state` was put."""
    module = Toy(seed=99)
    optimizer = toy_optimizer(module)
    import_state(module, optimizer, copy.deepcopy(state))
    train(module, optimizer, numbers)
    return weights(module)


def test_a_fresh_model_and_optimiser_take_the_next_steps_to_the_last_bit() -> None:
    module = Toy(seed=1)
    optimizer = toy_optimizer(module)
    train(module, optimizer, range(3))
    state = export_state(module, optimizer, 3)
    train(module, optimizer, range(3, 6))
    assert equal(went_on(state, range(3, 6)), weights(module))
    # the comparison is a strict one: a step count that is lost, or a moment, shows
    for lost in ("exp_avg", "exp_avg_sq"):
        tensors = {
            name: torch.zeros_like(tensor) if name.startswith(f"{lost}/") else tensor
            for name, tensor in state.tensors.items()
        }
        assert not equal(went_on(TrainingState(3, tensors, state.extra), range(3, 6)), weights(module))
    assert not equal(went_on(TrainingState(3, state.tensors, {"optimizer_step": 0}), range(3, 6)), weights(module))


def test_a_state_is_a_whole_model_and_shares_no_memory_with_it() -> None:
    module = Toy()
    optimizer = toy_optimizer(module)
    train(module, optimizer, range(1))
    state = export_state(module, optimizer, 1)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert state.tensors.keys() == {
        *(f"model/{name}" for name, _ in module.named_parameters()),
        *(f"{moment}/{name}" for moment in ("exp_avg", "exp_avg_sq") for name in trained),
    }
    assert "model/unreached" in state.tensors  # frozen
    assert state.problem() is None
    before = copy.deepcopy(state.tensors)
    train(module, optimizer, range(1, 3))
    assert equal(state.tensors, before)


@pytest.mark.usefixtures("process_group")
def test_a_resumed_loop_ends_where_an_uninterrupted_one_ends_with_dropout(tmp_path: Path) -> None:
    def save_nothing(state: TrainingState, reason: str) -> None:
        pass

    whole = Toy(dropout=0.3)
    toy_loop(whole, stop_step=7, save_every=100, save=save_nothing).run(0)

    keeper = checkpointer(LocalStore(tmp_path / "run"))

    def save(state: TrainingState, reason: str) -> None:
        keeper.save(state, reason)

    toy_loop(Toy(dropout=0.3), stop_step=4, save_every=100, save=save).run(0)
    loaded = keeper.load_newest()
    assert loaded is not None
    resumed = Toy(seed=8, dropout=0.3)
    optimizer = toy_optimizer(resumed)
    import_state(resumed, optimizer, loaded[1])
    toy_loop(resumed, optimizer=optimizer, stop_step=7, save_every=100, save=save_nothing).run(loaded[1].step)
    assert equal(weights(resumed), weights(whole))
    undropped = Toy(dropout=0.0)
    toy_loop(undropped, stop_step=7, save_every=100, save=save_nothing).run(0)
    assert not equal(weights(undropped), weights(whole))


@pytest.mark.parametrize("change", ["a tensor too few", "a tensor too many", "another shape"])
def test_weights_of_another_model_are_refused_and_overwrite_nothing(change: str) -> None:
    module = Toy()
    state = export_state(module, toy_optimizer(module), 12)
    if change == "a tensor too few":
        del state.tensors["model/second.bias"]
        named = "second.bias is absent there and (1,) here"
    elif change == "a tensor too many":
        state.tensors["model/third.weight"] = torch.zeros(2, 2)
        named = r"third.weight is (2, 2) there and absent here"
    else:
        state.tensors["model/first.weight"] = torch.zeros(4, 5)
        named = r"first.weight is (4, 5) there and (4, 3) here"
    receiving = Toy(seed=2)
    before = weights(receiving)
    for put_in in (import_weights, lambda m, s: import_state(m, toy_optimizer(m), s)):
        with pytest.raises(UserError) as caught:
            put_in(receiving, state)
        assert named in caught.value.message
        assert "step 12" in caught.value.message
        assert caught.value.remedy
    assert equal(weights(receiving), before)
