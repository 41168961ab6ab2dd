"""Steps whose numbers are not sound leave no trace, on any rank, and only so many of them are borne."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkpoints import Whole, assert_same, checkpointer, joined, loaded_by
from tests.support.processes import run_ranks
from tests.support.toy_training import Toy, toy_loop, toy_step
from unimrg_api.spec_training import GuardSpec
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.engine.guard import NumericGuard, NumericGuardError
from unimrg_trainer.engine.loop import LoopReport
from unimrg_trainer.engine.step_plan import Step
from unimrg_trainer.storage import LocalStore

CPU = torch.device("cpu")


def with_weight(factor: float, *numbers: int, rank: int = 0, world_size: int = 1) -> Callable[[int], Step]:
    """Steps of which those with these numbers have a first row of this weight (times its own)."""

    def plan(number: int) -> Step:
        step = toy_step(number, rank, world_size)
        if number not in numbers:
            return step
        first, *others = step.micro_steps
        weights = first.row_weights.clone()
        weights[0] *= factor
        return Step(number, (replace(first, row_weights=weights), *others))

    return plan


def trained(plan: Callable[[int], Step], guard: NumericGuard, stop: int = 6) -> tuple[list[Whole], list[Any]]:
    """(the states saved after every step that was taken, and after the last; the metrics of every step)."""
    saved: list[Whole] = []
    points: list[Any] = []

    def report(measured: LoopReport) -> None:
        points.extend(measured.metrics)

    toy_loop(
        Toy(),
        stop_step=stop,
        save_every=1,
        save=lambda state, reason: saved.append(joined(state)),
        plan_step=plan,
        guard=guard,
        report=report,
    ).run(0)
    return saved, points


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_skipped_step_changes_no_weight_and_no_moment(poison: float) -> None:
    guard = NumericGuard(GuardSpec(), CPU)
    saved, points = trained(with_weight(poison, 2, 5), guard)
    assert [point.skipped for point in points] == [False, False, True, False, False, True]
    assert [state.step for state in saved] == [1, 2, 4, 5, 6], "a state that has not changed is only saved at the end"
    for name, tensor in saved[-2].tensors.items():
        if not name.startswith("guard/"):
            assert torch.equal(tensor, saved[-1].tensors[name]), name
            assert bool(tensor.isfinite().all())
    assert not torch.equal(saved[1].tensors["model/first.weight"], saved[2].tensors["model/first.weight"])
    assert guard.skipped == 2


@pytest.mark.usefixtures("process_group")
def test_one_step_beyond_the_budget_ends_training_and_spares_the_commit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    saved: list[Whole] = []

    def save(state: LocalState, reason: str) -> None:
        checkpointer(store).save(state, reason)
        saved.append(joined(state))

    guard = NumericGuard(GuardSpec(skip_budget=1), CPU)
    with pytest.raises(NumericGuardError, match=r"2 steps had .* the last one step 4") as caught:
        toy_loop(Toy(), stop_step=8, save_every=3, save=save, plan_step=with_weight(math.nan, 1, 3), guard=guard).run(0)
    assert int(caught.value.exit_code) == 82
    assert caught.value.message.endswith("the last checkpoint is that of step 3")
    assert caught.value.remedy
    assert [state.step for state in saved] == [3]
    loaded = loaded_by(checkpointer(store))
    assert loaded is not None
    assert_same(loaded[1], saved[0])


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("settings", [GuardSpec(skip_budget=4, spike_threshold="20", spike_window=8)])
def test_a_resumed_training_skips_the_same_steps(settings: GuardSpec) -> None:
    """Spikes at steps 10 and 13 (too early: 3), interrupted between the two."""
    plan = with_weight(1e4, 3, 10, 13)
    saved, points = trained(plan, NumericGuard(settings, CPU), stop=16)
    assert [point.step for point in points if point.skipped] == [11, 14]

    guard, last = NumericGuard(settings, CPU), list[Whole]()
    guard.import_state(saved[10].reader())
    assert guard.skipped == 1
    toy_loop(
        Toy(seed=5),
        state=saved[10].reader(),
        stop_step=16,
        save_every=16,
        save=lambda state, reason: last.append(joined(state)),
        plan_step=plan,
        guard=guard,
    ).run(12)
    assert_same(last[0], saved[-1])
    assert guard.skipped == 2


@pytest.mark.usefixtures("process_group")
def test_half_a_window_of_spikes_in_a_row_is_a_new_level_also_when_resumed() -> None:
    settings = GuardSpec(spike_threshold="6", spike_window=9)
    values = [level + 0.01 * (index % 3) for level in (1.0, 5.0) for index in range(20)]
    values[22] = math.nan  # ends the first streak, of two
    for interrupted_at in (25, None):
        guard, skipped = NumericGuard(settings, CPU), list[int]()
        for index, value in enumerate(values):
            if index == interrupted_at:
                saved = joined(LocalState(index, guard.export_pieces()))
                guard = NumericGuard(settings, CPU)
                guard.import_state(saved.reader())
            if guard.judge(torch.tensor(1.0), torch.tensor(value)):
                skipped.append(index)
        assert skipped == [20, 21, 22, 23, 24, 25, 26, 27], "with the fifth in a row the level counts"


def test_a_spike_is_judged_by_median_and_median_deviation() -> None:
    """The limit by Python's own statistics; an odd window, so that its median is one of the values."""
    window, threshold = 9, 4.0
    guard = NumericGuard(GuardSpec(spike_threshold=str(threshold), spike_window=window), CPU)
    taken: list[float] = []
    values = [1.0 + 0.1 * ((7 * i) % 10) for i in range(40)]
    values[4] = values[20] = values[31] = 9.0
    values[25] = math.inf
    for value in values:
        skip = bool(guard.judge(torch.tensor(1.0), torch.tensor(value)))
        expected = not math.isfinite(value)
        if len(taken) >= window and math.isfinite(value):
            median = statistics.median(taken[-window:])
            deviation = statistics.median(abs(one - median) for one in taken[-window:])
            expected = value > median + threshold * (1.4826 * deviation + 1e-3 * median)
        assert skip == expected
        taken += [] if skip else [value]
    assert taken.count(9.0) == 1  # the first came before the window was full


def poisoned_on_one(agreement: Agreement) -> tuple[list[bool], dict[str, Any]]:
    rank, world_size = agreement.rank, agreement.world_size
    numbers = (1,) if rank == 1 else ()
    plan = with_weight(math.nan, *numbers, rank=rank, world_size=world_size)
    saved, points = trained(plan, NumericGuard(GuardSpec(), CPU), stop=3)
    return [point.skipped for point in points], {n: t.tolist() for n, t in saved[-1].tensors.items()}


def test_what_one_rank_cannot_compute_every_rank_skips(tmp_path: Path) -> None:
    (first, some), (second, others) = run_ranks(2, tmp_path / "meeting", poisoned_on_one)
    assert first == second == [False, True, False]
    tensors = {name: torch.tensor(values) for name, values in {**some, **others}.items()}
    assert {"model/first.weight", "exp_avg/second.bias", "guard/skipped"} <= tensors.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
