"""Every strategy trains as one process does, and goes on from every other's state: real gloo ranks, float32."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.support.processes import run_ranks
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StrategyName
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.state import LocalState, Piece
from unimrg_trainer.engine.strategies import selfcheck
from unimrg_trainer.engine.strategies.base import import_weights
from unimrg_trainer.engine.strategies.ddp import DataParallel
from unimrg_trainer.engine.strategies.selfcheck import HARDEST, PATTERNS, STEPS, TOLERANCE, MemoryReader

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
CPU = torch.device("cpu")
HALF = STEPS // 2

Sent = list[tuple[str, tuple[int, ...], int, Any]]
"""Pieces with their values as NumPy arrays: torch's tensors would live no longer than the rank that sends them."""


def contract(agreement: Agreement, name: StrategyName, patterns: list[selfcheck.Pattern]) -> list[float]:
    return [selfcheck.check_contract(name, pattern, CPU).error for pattern in patterns]


@dataclass(frozen=True)
class Trained:
    """One rank's training under a strategy."""

    error: float
    """How far from the oracle it ends."""
    half: Sent
    """What the rank holds after half of the steps."""
    resumed_alike: bool
    """Whether training that goes on from that state ends in the same bits."""
    sums_error: float
    """How far held-out loss sums after half of the steps are from those of a whole model with these weights."""


def halfway(agreement: Agreement) -> dict[StrategyName, Trained]:
    """Train under each strategy."""
    found: dict[StrategyName, Trained] = {}
    for name in NAMES:
        strategy = selfcheck.build(name, HARDEST, CPU)
        selfcheck.train(strategy, HARDEST, 0, HALF)
        half, pieces = selfcheck.gathered(strategy, HALF), strategy.export_state(HALF).pieces
        rows = torch.randn(6, 2, selfcheck.WIDTH, generator=torch.Generator().manual_seed(1))
        whole = selfcheck.CheckModel(HARDEST)
        import_weights(whole, half)
        with torch.no_grad():
            off = float((strategy.row_sums(rows) - whole(rows)).abs().max())
        selfcheck.train(strategy, HARDEST, HALF, STEPS)
        weights = selfcheck.gathered(strategy, STEPS).weights()
        strategy.close()
        resumed = selfcheck.build(name, HARDEST, CPU)
        resumed.import_state(half)
        selfcheck.train(resumed, HARDEST, HALF, STEPS)
        again = selfcheck.gathered(resumed, STEPS).weights()
        resumed.close()
        found[name] = Trained(
            selfcheck.difference(weights, selfcheck.oracle(HARDEST, STEPS, agreement.world_size)),
            [(piece.name, piece.shape, piece.start, piece.values.numpy()) for piece in pieces],
            all(torch.equal(weights[key], again[key]) for key in weights),
            off,
        )
    return found


def second_half(agreement: Agreement, name: StrategyName, sources: list[list[Sent]]) -> list[float]:
    """How far from the oracle the other half ends that begins in the state of each of `sources` (its ranks' pieces)."""
    errors = []
    for source in sources:
        pieces = [[Piece(n, shape, start, torch.from_numpy(v)) for n, shape, start, v in rank] for rank in source]
        strategy = selfcheck.build(name, HARDEST, CPU)
        strategy.import_state(MemoryReader(LocalState(HALF, rank) for rank in pieces))
        selfcheck.train(strategy, HARDEST, HALF, STEPS)
        found = selfcheck.gathered(strategy, STEPS).weights()
        errors.append(selfcheck.difference(found, selfcheck.oracle(HARDEST, STEPS, agreement.world_size)))
        strategy.close()
    return errors


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[StrategyName, Trained]]:
    return run_ranks(2, tmp_path_factory.mktemp("two ranks") / "meeting", halfway)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_losses_in_training_are_those_of_the_whole_model(two_ranks: Any, name: StrategyName) -> None:
    assert [rank[name].sums_error for rank in two_ranks] == pytest.approx([0.0, 0.0], abs=1e-5)


def states(two_ranks: Any, names: Iterable[StrategyName]) -> list[list[Sent]]:
    """Of each strategy, each rank's pieces after half of the steps."""
    return [[rank[name].half for rank in two_ranks] for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_as_one_process_does(two_ranks: Any, name: StrategyName) -> None:
    """A module used twice, recomputed blocks, two micro-steps, a skipped step, clipping, other weights on rank 1."""
    assert [rank[name].error for rank in two_ranks] == pytest.approx([0.0, 0.0], abs=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_under_the_same_strategy_changes_no_bit(two_ranks: Any, name: StrategyName) -> None:
    assert all(rank[name].resumed_alike for rank in two_ranks)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_as_one_process_in_every_pattern(tmp_path: Path, name: StrategyName) -> None:
    for errors in run_ranks(2, tmp_path / "meeting", contract, name, PATTERNS):
        assert max(errors) <= TOLERANCE and len(errors) == len(PATTERNS)


@pytest.mark.parametrize(
    ("name", "world_size", "sources"),
    [
        ("DDP", 1, ["FSDP2", "ZeRO3"]),
        ("FSDP2", 4, ["ZeRO1", "DDP"]),
        ("ZeRO1", 2, ["FSDP2", "ZeRO2"]),
        pytest.param("ZeRO3", 2, ["DDP", "ZeRO1"], marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_under_another_strategy_and_world_size(
    two_ranks: Any, tmp_path: Path, name: StrategyName, world_size: int, sources: list[StrategyName]
) -> None:
    for errors in run_ranks(world_size, tmp_path / "meeting", second_half, name, states(two_ranks, sources)):
        assert errors == pytest.approx([0.0, 0.0], abs=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_goes_on_from_every_other_on_one_two_and_four_ranks(
    two_ranks: Any, tmp_path: Path, name: StrategyName
) -> None:
    for world_size in (1, 2, 4):
        for errors in run_ranks(world_size, tmp_path / f"{world_size}", second_half, name, states(two_ranks, NAMES)):
            assert dict(zip(NAMES, errors, strict=True)) == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=TOLERANCE)


class ForgetsToReduce(DataParallel):
    """Leaves out the reduction over ranks."""

    def forward_backward(self, batch: Any, row_weights: Any, *, sync_gradients: bool) -> Any:
        return super().forward_backward(batch, row_weights, sync_gradients=False)


class ForgetsMoments(DataParallel):
    """Imports weights alone."""

    def import_state(self, reader: Any) -> None:
        super().import_state(reader)
        self.reset_moments()
        for state in self.optimizer.state.values():
            state["exp_avg"].zero_()


def checked(agreement: Agreement, broken: type[DataParallel]) -> list[bool]:
    """Whether each check of DDP passes when it is `broken`."""
    selfcheck.build_strategy = lambda _, *arguments: broken(*arguments)  # type: ignore[attr-defined, assignment]
    return [outcome.passed for outcome in selfcheck.check_strategy("DDP", CPU)]


@pytest.mark.parametrize(("broken", "failing"), [(ForgetsToReduce, set(range(9))), (ForgetsMoments, {8})])
def test_the_check_finds_a_strategy_that_is_wrong(
    tmp_path: Path, broken: type[DataParallel], failing: set[int]
) -> None:
    for passed in run_ranks(2, tmp_path / "meeting", checked, broken):
        assert {index for index, right in enumerate(passed) if not right} == failing


def test_unknown_versions_that_train_wrongly_end_with_83(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [selfcheck.Outcome("ZeRO1", "a pattern", math.nan), selfcheck.Outcome("ZeRO1", "another", 1e-8)]
    monkeypatch.setattr(selfcheck, "check_strategy", lambda *_: outcomes)
    selfcheck.require_working("ZeRO1", CPU)
    monkeypatch.setitem(selfcheck.KNOWN_GOOD, "deepspeed", ("0.0.1",))
    selfcheck.require_working("FSDP2", CPU)
    with pytest.raises(UserError, match="checks that failed: 1, the first of them ZeRO1") as caught:
        selfcheck.require_working("ZeRO1", CPU)
    assert caught.value.exit_code is ExitCode.STRATEGY_CHECK


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("The function 'x' has already been reduced"), ExitCode.STRATEGY_CHECK),
        (NotImplementedError("fully_shard"), ExitCode.STRATEGY_CHECK),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), None),
    ],
)
def test_a_strategy_that_cannot_run_ends_with_83_unless_a_peer_is_gone(
    error: Exception, code: ExitCode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[selfcheck.Outcome]:
        raise error

    monkeypatch.setattr(selfcheck, "check_strategy", fail)
    monkeypatch.setitem(selfcheck.KNOWN_GOOD, "torch", ("0.0.1",))
    with pytest.raises(type(error) if code is None else UserError) as caught:
        selfcheck.require_working("FSDP2", CPU)
    assert getattr(caught.value, "exit_code", None) == code
