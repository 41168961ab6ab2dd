"""kill -9 of a real process at every phase: the last commit stands, and the next attempt commits the step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpointer, loads, small_state
from tests.support.faulty_stores import WrappedStore
from tests.support.processes import Paused, start
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.storage import LocalStore


def save_and_pause(paused: Paused, root: str, moment: str, pattern: str) -> None:
    """Save step 30 as attempt 2, and stop before or after the first put or delete that matches."""
    when, action = moment.split()

    def pause(done: str, key: str) -> None:
        if done == action and re.search(pattern, key):
            paused.reached(key)

    inner = LocalStore(Path(root))
    store = WrappedStore(inner, before=pause) if when == "before" else WrappedStore(inner, after=pause)
    checkpointer(store, attempt=2, keep_last=2).save(small_state(30), "periodic")


@pytest.mark.parametrize(
    ("moment", "place", "left"),
    [
        ("before put", "reservation", [20, 10]),
        ("after put", "rank-0", [20, 10]),
        ("before put", "manifest", [20, 10]),
        ("before put", "COMMITTED", [20, 10]),
        ("after put", "COMMITTED", [30, 20, 10]),
        ("before delete", "step-00000010/COMMITTED", [30, 20, 10]),
        ("after delete", "step-00000010/COMMITTED", [30, 20]),
        ("before delete", "step-00000010/.*/rank-0", [30, 20]),
        ("after delete", "step-00000010/.*/reservation", [30, 20]),
    ],
)
def test_a_killed_writer_leaves_whole_commits_and_the_next_goes_on(
    tmp_path: Path, moment: str, place: str, left: list[int]
) -> None:
    store = LocalStore(tmp_path)
    for step in (10, 20):
        checkpointer(store).save(small_state(step), "periodic")
    with start(save_and_pause, str(tmp_path), moment, place) as process:
        assert re.search(place, process.wait_until_paused())
        process.kill()
    assert [commit.step for commit in list_commits(store)] == left
    loads(store, left[0])
    following = left[0] + 10
    checkpointer(store, attempt=3, keep_last=2).save(small_state(following), "periodic")
    assert [commit.step for commit in list_commits(store)] == [following, left[0]]
    loads(store, following)
