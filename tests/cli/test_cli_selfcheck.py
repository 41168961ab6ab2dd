"""`unimrg selfcheck`: real ranks of this machine, and what it says of a strategy that is wrong or cannot run."""

from __future__ import annotations

import math

import pytest

from tests.support.command_line import Unimrg
from unimrg_trainer.engine.strategies import selfcheck_ranks
from unimrg_trainer.engine.strategies.selfcheck import Outcome


def test_a_strategy_is_checked_on_the_installed_versions(unimrg: Unimrg) -> None:
    result = unimrg("selfcheck", "--strategy", "DDP")
    assert result.code == 0
    lines = result.out.splitlines()
    assert len(lines) == 1 + 8 + 1
    assert all(line.startswith("DDP") and " passed " in line for line in lines[1:])


def test_a_strategy_that_is_wrong_is_named_and_ends_with_83(unimrg: Unimrg, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Outcome("ZeRO2", "a pattern", 1e-8), Outcome("ZeRO2", "resumed from DDP", 0.25)]
    monkeypatch.setattr(selfcheck_ranks, "check_on_ranks", lambda names: found)
    result = unimrg("selfcheck")
    result.refused(
        83, "checks that failed: 1", "ZeRO2 (resumed from DDP): a weight is off by 2.5e-01", "deepspeed 0.19.8"
    )
    assert [line.split()[2] for line in result.out.splitlines()[1:]] == ["passed", "FAILED"]


@pytest.mark.slow
def test_a_strategy_that_cannot_run_does_not_hide_the_others() -> None:
    impossible, *others = selfcheck_ranks.check_on_ranks(["Unknown", "DDP"])  # type: ignore[list-item]
    assert impossible.case == "could not run: KeyError: 'Unknown'" and math.isnan(impossible.error)
    assert len(others) == 9 and all(outcome.strategy == "DDP" and outcome.passed for outcome in others)
