"""A stop request that reaches one rank stops all ranks after the same step: real gloo ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_ranks
from tests.support.toy_training import Toy, toy_loop, toy_step
from unimrg_api.errors import Interrupted
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.engine.strategies.base import Strategy


class Flag:
    """A request that the test makes."""

    requested = False


class ClippingSets:
    """A strategy that sets a flag while a step is under way: `clip` is called once in each."""

    def __init__(self, strategy: Strategy, flag: Flag, step: int) -> None:
        self._strategy, self._flag, self._left = strategy, flag, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def clip(self, max_norm: float) -> Any:
        self._left -= 1
        self._flag.requested = self._left <= 0
        return self._strategy.clip(max_norm)


def train_until_asked(rank: int, world_size: int, asked_rank: int | None, in_step: int, stop_step: int) -> Any:
    """(how it ended, what was saved): a loop in which `asked_rank` is asked to stop during step `in_step`."""
    flag, saved = Flag(), []

    def save(state: LocalState, reason: str) -> None:
        saved.append((state.step, reason))

    loop = toy_loop(
        Toy(),
        stop_step=stop_step,
        save_every=100,
        save=save,
        flag=flag,
        plan_step=lambda number: toy_step(number, rank, world_size),
        wrap=lambda s: ClippingSets(s, flag, in_step) if rank == asked_rank else s,
    )
    try:
        end = str(loop.run(0))
    except Interrupted as error:
        end = f"{int(error.exit_code)}"
    return end, saved


def train_on(agreement: Agreement, asked_rank: int | None, in_step: int, stop_step: int) -> Any:
    return train_until_asked(agreement.rank, agreement.world_size, asked_rank, in_step, stop_step)


INTERRUPTED = (str(int(ExitCode.INTERRUPTED)), [(4, "interruption")])


@pytest.mark.parametrize(
    ("asked_rank", "expected"), [(0, INTERRUPTED), (1, INTERRUPTED), (None, ("6", [(6, "final")]))]
)
def test_both_ranks_commit_and_stop_one_step_after_one_was_asked(
    tmp_path: Path, asked_rank: int | None, expected: object
) -> None:
    assert run_ranks(2, tmp_path / "meeting", train_on, asked_rank, 3, 6) == [expected, expected]


@pytest.mark.usefixtures("process_group")
def test_a_stop_asked_for_in_the_last_step_does_not_take_its_end_away() -> None:
    assert train_until_asked(0, 1, 0, 6, 6) == ("6", [(6, "final")])
    assert train_until_asked(0, 1, 0, 5, 6) == ("6", [(6, "final")])
