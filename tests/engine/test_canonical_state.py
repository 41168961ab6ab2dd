"""A state that was exported and imported into a fresh model and optimiser trains on as if nothing had happened."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.support.toy_training import Toy, toy_loop, toy_strategy
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import LocalState, Piece
from unimrg_trainer.engine.strategies.base import Strategy, import_weights
from unimrg_trainer.engine.strategies.selfcheck import MemoryReader

pytestmark = pytest.mark.usefixtures("process_group")


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def save_nothing(state: LocalState, reason: str) -> None:
    pass


def resumed(state: LocalState) -> dict[str, Tensor]:
    """Weights at step 7 of a fresh model with other weights, into which `state` was imported."""
    module = Toy(seed=8, dropout=0.3)
    loop = toy_loop(module, state=MemoryReader([state]), stop_step=7, save_every=100, save=save_nothing)
    loop.run(state.step)
    return weights(module)


def test_a_loop_resumed_from_its_state_ends_in_the_same_bits() -> None:
    """Weights, both moments, AdamW's step count and dropout; each of them shows if it is lost."""
    whole, undropped = Toy(dropout=0.3), Toy(dropout=0.0)
    for module in (whole, undropped):
        toy_loop(module, stop_step=7, save_every=100, save=save_nothing).run(0)
    saved: list[LocalState] = []
    toy_loop(Toy(dropout=0.3), stop_step=4, save_every=100, save=lambda state, _: saved.append(state)).run(0)
    (state,) = saved
    assert equal(resumed(state), weights(whole))
    assert not equal(weights(undropped), weights(whole))
    for lost in ("exp_avg/", "exp_avg_sq/"):
        pieces = [
            replace(piece, values=torch.zeros_like(piece.values)) if piece.name.startswith(lost) else piece
            for piece in state.pieces
        ]
        assert not equal(resumed(LocalState(4, pieces)), weights(whole))
    assert not equal(resumed(LocalState(0, state.pieces)), weights(whole))


def test_a_state_is_a_whole_model_and_shares_no_memory_with_it() -> None:
    module = Toy()
    saved: list[tuple[LocalState, LocalState]] = []
    toy_loop(module, stop_step=3, save_every=1, save=lambda state, _: saved.append((state, copy.deepcopy(state)))).run(
        0
    )
    first, as_it_was = saved[0]
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {piece.name for piece in first.pieces} == {
        *(f"model/{name}" for name, _ in module.named_parameters()),
        *(f"{moment}/{name}" for moment in ("exp_avg", "exp_avg_sq") for name in trained),
        "guard/skipped",
        "data/substituted",
    }
    assert "model/unreached" in MemoryReader([first]).tensors  # frozen
    for piece, before in zip(first.pieces, as_it_was.pieces, strict=True):
        assert torch.equal(piece.values, before.values)
    assert not equal(MemoryReader([first]).weights(), MemoryReader([saved[-1][0]]).weights())


def test_no_earlier_state_is_held_while_one_is_copied() -> None:
    """What a save has done with is free: the host holds one copy."""
    copies: list[weakref.ref[LocalState]] = []
    alive: list[int] = []

    def watched(strategy: Strategy) -> Strategy:
        export = strategy.export_state

        def export_state(step: int) -> LocalState:
            alive.append(sum(copy() is not None for copy in copies))
            state = export(step)
            copies.append(weakref.ref(state))
            return state

        strategy.export_state = export_state  # type: ignore[method-assign]
        return strategy

    toy_loop(Toy(), stop_step=3, save_every=1, save=save_nothing, wrap=watched).run(0)
    assert alive == [0, 0, 0]


def drop(pieces: list[Piece], name: str) -> list[Piece]:
    return [piece for piece in pieces if piece.name != name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pieces: drop(pieces, "model/second.bias"), "second.bias is absent there and (1,) here"),
        (
            lambda pieces: [*pieces, Piece("model/third", (2,), 0, torch.zeros(2))],
            "third is (2,) there and absent here",
        ),
        (
            lambda pieces: [*drop(pieces, "model/scale"), Piece("model/scale", (4,), 0, torch.zeros(4))],
            "scale is (4,) there and () here",
        ),
    ],
    ids=["a tensor too few", "a tensor too many", "another shape"],
)
def test_weights_of_another_model_are_refused_and_overwrite_nothing(
    change: Callable[[list[Piece]], list[Piece]], named: str
) -> None:
    state = toy_strategy(Toy()).export_state(12)
    reader = MemoryReader([LocalState(12, change(state.pieces))])
    receiving = Toy(seed=2)
    before = weights(receiving)
    for put_in in (import_weights, lambda module, reader: toy_strategy(module).import_state(reader)):
        with pytest.raises(UserError) as caught:
            put_in(receiving, reader)
        assert named in caught.value.message and "step 12" in caught.value.message
        assert caught.value.remedy
    assert equal(weights(receiving), before)


def test_a_checkpoint_without_moments_of_a_trained_parameter_is_refused() -> None:
    state = toy_strategy(Toy()).export_state(12)
    reader = MemoryReader([LocalState(12, drop(state.pieces, "exp_avg/scale"))])
    with pytest.raises(UserError, match="exp_avg/scale is absent there"):
        toy_strategy(Toy()).import_state(reader)
