"""What spec.checkpoint.resume does with the commits that are there, or are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import checkpointer, small_state
from tests.support.local_jobs import tiny_job
from unimrg_api.errors import UserError
from unimrg_trainer.engine.train import newest_allowed
from unimrg_trainer.storage import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def commit(store: LocalStore, step: int) -> None:
    checkpointer(store).save(small_state(step), "periodic")


def found(store: LocalStore, folder: Path, policy: str) -> int | None:
    """The step that another attempt goes on from."""
    job, _ = tiny_job(folder, checkpoint__resume=policy)
    newest = newest_allowed(checkpointer(store, attempt=2), job)
    return None if newest is None else newest.step


@pytest.mark.parametrize("policy", ["IfPresent", "Required"])
def test_if_present_and_required_go_on_from_the_newest_commit(store: LocalStore, tmp_path: Path, policy: str) -> None:
    commit(store, 3)
    commit(store, 8)
    assert found(store, tmp_path, policy) == 8


@pytest.mark.parametrize("policy", ["IfPresent", "Never"])
def test_if_present_and_never_start_anew_without_a_commit(store: LocalStore, tmp_path: Path, policy: str) -> None:
    assert found(store, tmp_path, policy) is None


@pytest.mark.parametrize(("policy", "committed", "code"), [("Never", True, 64), ("Required", False, 66)])
def test_what_a_policy_rules_out_is_refused_and_left_alone(
    store: LocalStore, tmp_path: Path, policy: str, committed: bool, code: int
) -> None:
    if committed:
        commit(store, 8)
    before = store.list()
    with pytest.raises(UserError, match="step 8" if committed else policy) as caught:
        found(store, tmp_path, policy)
    assert int(caught.value.exit_code) == code
    assert "file://run" in caught.value.message and caught.value.remedy
    assert store.list() == before
