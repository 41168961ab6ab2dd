"""What spec.checkpoint.resume does with the commits that are there, or are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import assert_same, checkpointer, small_state
from tests.support.local_jobs import tiny_job
from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import TrainingState
from unimrg_trainer.engine.train import newest
from unimrg_trainer.storage import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def commit(store: LocalStore, step: int) -> TrainingState:
    state = small_state(step)
    checkpointer(store).save(state, "periodic")
    return state


def found(store: LocalStore, folder: Path, policy: str) -> TrainingState | None:
    """The state that another attempt goes on from."""
    job, _ = tiny_job(folder, checkpoint__resume=policy)
    loaded = newest(checkpointer(store, attempt=2), job)
    return None if loaded is None else loaded[1]


@pytest.mark.parametrize("policy", ["IfPresent", "Required"])
def test_if_present_and_required_go_on_from_the_newest_commit(store: LocalStore, tmp_path: Path, policy: str) -> None:
    commit(store, 3)
    last = commit(store, 8)
    state = found(store, tmp_path, policy)
    assert state is not None
    assert_same(state, last)


@pytest.mark.parametrize("policy", ["IfPresent", "Never"])
def test_if_present_and_never_start_anew_where_there_is_no_commit(
    store: LocalStore, tmp_path: Path, policy: str
) -> None:
    assert found(store, tmp_path, policy) is None


def test_never_refuses_a_prefix_that_holds_commits_and_leaves_them(store: LocalStore, tmp_path: Path) -> None:
    commit(store, 8)
    before = store.list()
    with pytest.raises(UserError, match="step 8") as caught:
        found(store, tmp_path, "Never")
    assert int(caught.value.exit_code) == 64
    assert "file://run" in caught.value.message
    assert caught.value.remedy
    assert store.list() == before


def test_required_refuses_a_prefix_without_commits_as_a_missing_input(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Required") as caught:
        found(store, tmp_path, "Required")
    assert int(caught.value.exit_code) == 66
    assert "file://run" in caught.value.message
    assert caught.value.remedy
