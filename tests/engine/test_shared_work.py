"""Work that is shared out over ranks comes back whole and in its order, on every rank: real gloo ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_ranks
from unimrg_trainer.checkpoint.agreement import Agreement
from unimrg_trainer.engine.measuring import SharedWork

COUNTS = (0, 1, 2, 3, 5, 6, 11)


def shared_and_gathered(agreement: Agreement) -> Any:
    """For every count of items: (this rank's share, what all ranks made of theirs)."""
    work = SharedWork(agreement.rank, agreement.world_size)
    answers = []
    for count in COUNTS:
        own = list(work.share([f"item {index}" for index in range(count)]))
        answers.append((own, work.gather([item.upper() for item in own])))
    return answers


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_item_is_done_once_and_results_are_in_the_items_order(tmp_path: Path, world_size: int) -> None:
    ranks = run_ranks(world_size, tmp_path / "meeting", shared_and_gathered)
    for index, count in enumerate(COUNTS):
        shares = [answers[index][0] for answers in ranks]
        items = [f"item {number}" for number in range(count)]
        assert sorted(item for own in shares for item in own) == sorted(items)
        lengths = [len(own) for own in shares]
        assert max(lengths) - min(lengths) <= 1
        for answers in ranks:
            assert answers[index][1] == [item.upper() for item in items]
