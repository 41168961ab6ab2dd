"""A state that was exported and imported into a fresh model and optimiser trains on as if nothing had happened."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.checkpoints import MemoryReader, Whole, checkpointer, joined, loaded_by
from tests.support.toy_training import Toy, toy_loop, toy_optimizer
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.engine.canonical_state import export_state, import_state, import_weights
from unimrg_trainer.storage import LocalStore


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def save_nothing(state: LocalState, reason: str) -> None:
    pass


def resumed(state: Whole) -> dict[str, Tensor]:
    """Weights at step 7 of a fresh model with other weights, into which `state` was imported."""
    module = Toy(seed=8, dropout=0.3)
    optimizer = toy_optimizer(module)
    import_state(module, optimizer, MemoryReader(state))
    toy_loop(module, optimizer=optimizer, stop_step=7, save_every=100, save=save_nothing).run(state.step)
    return weights(module)


@pytest.mark.usefixtures("process_group")
def test_a_loop_resumed_from_a_commit_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Weights, both moments, AdamW's step count and dropout; each of them shows if it is lost."""
    whole, undropped = Toy(dropout=0.3), Toy(dropout=0.0)
    for module in (whole, undropped):
        toy_loop(module, stop_step=7, save_every=100, save=save_nothing).run(0)
    keeper = checkpointer(LocalStore(tmp_path / "run"))
    toy_loop(Toy(dropout=0.3), stop_step=4, save_every=100, save=lambda *saved: keeper.save(*saved) and None).run(0)
    loaded = loaded_by(keeper)
    assert loaded is not None
    state = loaded[1]
    assert equal(resumed(state), weights(whole))
    assert not equal(weights(undropped), weights(whole))
    for lost in ("exp_avg/", "exp_avg_sq/"):
        tensors = {name: torch.zeros_like(t) if name.startswith(lost) else t for name, t in state.tensors.items()}
        assert not equal(resumed(Whole(4, tensors)), weights(whole))
    assert not equal(resumed(Whole(0, state.tensors)), weights(whole))


@pytest.mark.usefixtures("process_group")
def test_a_state_is_a_whole_model_and_shares_no_memory_with_it() -> None:
    module = Toy()
    optimizer = toy_optimizer(module)
    toy_loop(module, optimizer=optimizer, stop_step=1, save_every=100, save=save_nothing).run(0)
    exported = export_state(module, optimizer, 1)
    state = joined(exported)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert state.tensors.keys() == {
        *(f"model/{name}" for name, _ in module.named_parameters()),
        *(f"{moment}/{name}" for moment in ("exp_avg", "exp_avg_sq") for name in trained),
    }
    assert "model/unreached" in state.tensors  # frozen
    assert exported.problem() is None
    before = copy.deepcopy(state.tensors)
    toy_loop(module, optimizer=optimizer, stop_step=3, save_every=100, save=save_nothing).run(1)
    assert equal(state.tensors, before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("model/second.bias"), "second.bias is absent there and (1,) here"),
        (lambda tensors: tensors.update({"model/third": torch.zeros(2)}), "third is (2,) there and absent here"),
        (lambda tensors: tensors.update({"model/scale": torch.zeros(4)}), "scale is (4,) there and () here"),
    ],
    ids=["a tensor too few", "a tensor too many", "another shape"],
)
def test_weights_of_another_model_are_refused_and_overwrite_nothing(
    change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    module = Toy()
    state = joined(export_state(module, toy_optimizer(module), 12))
    change(state.tensors)
    receiving = Toy(seed=2)
    before = weights(receiving)
    for put_in in (import_weights, lambda m, s: import_state(m, toy_optimizer(m), s)):
        with pytest.raises(UserError) as caught:
            put_in(receiving, MemoryReader(state))
        assert named in caught.value.message and "step 12" in caught.value.message
        assert caught.value.remedy
    assert equal(weights(receiving), before)


def test_all_that_the_fused_kernel_reads_is_on_the_parameters_device() -> None:
    module = Toy()
    ones = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    tensors = {f"{group}/{name}": one for group in ("model", "exp_avg", "exp_avg_sq") for name, one in ones.items()}
    elsewhere = module.to("meta")
    optimizer = toy_optimizer(elsewhere)
    import_state(elsewhere, optimizer, MemoryReader(Whole(3, tensors)))
    devices = {value.device.type for state in optimizer.state.values() for value in state.values()}
    assert devices == {"meta"}
