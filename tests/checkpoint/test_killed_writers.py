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


def save_and_pause(
    paused: Paused, root: str, step: int, keep_last: int, moment: str, action: str, pattern: str
) -> None:
    """Save `step` as attempt 2, and stop before or after the first write that matches."""

    def pause(done: str, key: str) -> None:
        if done == action and re.search(pattern, key):
            paused.reached(key)

    inner = LocalStore(Path(root))
    store = WrappedStore(inner, before=pause) if moment == "before" else WrappedStore(inner, after=pause)
    checkpointer(store, attempt=2, keep_last=keep_last).save(small_state(step), "periodic")


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        ("before", "reservation"),
        ("before", "rank-0"),
        ("after", "rank-0"),
        ("before", "manifest"),
        ("after", "manifest"),
        ("before", "COMMITTED"),
    ],
)
def test_killed_before_the_marker_the_previous_commit_stands(tmp_path: Path, moment: str, place: str) -> None:
    store = LocalStore(tmp_path)
    previous = checkpointer(store).save(small_state(10), "periodic")
    with start(save_and_pause, str(tmp_path), 20, 100, moment, "put", place) as process:
        assert place in process.wait_until_paused()
        process.kill()
    assert list_commits(store) == [previous]
    loads(store, 10)
    checkpointer(store, attempt=3).save(small_state(20), "periodic")
    loads(store, 20)


def test_killed_after_the_marker_the_new_commit_stands(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    checkpointer(store).save(small_state(10), "periodic")
    with start(save_and_pause, str(tmp_path), 20, 100, "after", "put", "COMMITTED") as process:
        process.wait_until_paused()
        process.kill()
    assert [(commit.step, commit.attempt) for commit in list_commits(store)] == [(20, 2), (10, 1)]
    loads(store, 20)
    checkpointer(store, attempt=3).save(small_state(30), "periodic")
    loads(store, 30)


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        ("before", "step-00000010/COMMITTED"),
        ("after", "step-00000010/COMMITTED"),
        ("before", "step-00000010/.*/rank-0"),
        ("after", "step-00000010/.*/reservation"),
    ],
)
def test_killed_while_it_deletes_no_half_checkpoint_is_committed(tmp_path: Path, moment: str, place: str) -> None:
    store = LocalStore(tmp_path)
    for step in (10, 20):
        checkpointer(store).save(small_state(step), "periodic")
    with start(save_and_pause, str(tmp_path), 30, 2, moment, "delete", place) as process:
        process.wait_until_paused()
        process.kill()
    left = [commit.step for commit in list_commits(store)]
    assert left == ([30, 20, 10] if moment == "before" and "COMMITTED" in place else [30, 20])
    loads(store, 30)
    checkpointer(store, attempt=3, keep_last=2).save(small_state(40), "periodic")
    assert [commit.step for commit in list_commits(store)] == [40, 30]
    loads(store, 40)
