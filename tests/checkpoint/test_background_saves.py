"""Training goes on while a checkpoint is written: real loops on real ranks, with stores that wait or fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from tests.support.checkpoints import assert_same, checkpointer, joined, loaded_by, loads, read_whole, small_state
from tests.support.dictionary_store import DictionaryStore
from tests.support.faulty_stores import WrappedStore, raising
from tests.support.processes import PATIENCE, run_ranks
from tests.support.toy_training import Toy, toy_loop, toy_step
from unimrg_api.errors import Interrupted
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import Agreement, TorchAgreement
from unimrg_trainer.checkpoint.manifest import CheckpointError
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.saving import BackgroundSaver
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.sections import SectionFile, read_positions
from unimrg_trainer.storage import LocalStore, ObjectStore
from unimrg_trainer.storage.base import StorageError

STOP = 7


class Recorder:
    """A reporter that records its calls; `beat` is called whenever a part of a step begins."""

    def __init__(self, beat: Callable[[int], None] = lambda step: None) -> None:
        self.committed: list[int] = []
        self.heartbeat = beat

    def close_segments(self) -> list[str]:
        return ["closed-when-the-state-was-copied"]

    def keep_segments(self, names: list[str]) -> None:
        assert names == self.close_segments()

    def record_checkpoint(self, step: int, seconds: float, held: float) -> None:
        assert 0 <= held <= seconds
        self.committed.append(step)


def train(
    agreement: Agreement, store: ObjectStore, recorder: Recorder, run_dir: Path, stop: StopFlag | None = None
) -> int:
    """Run the real loop as this rank, with saves in the background every other step; returns the finished steps."""
    own = TorchAgreement(cast(dist.ProcessGroup, dist.new_group(backend="gloo")))
    saver = BackgroundSaver(
        checkpointer(store, agreement=own), cast(Reporter, recorder), stop or SimpleNamespace(requested=False), run_dir
    )
    loop = toy_loop(
        Toy(),
        stop_step=STOP,
        save_every=2,
        save=saver.save,
        flag=saver,
        plan_step=lambda number: toy_step(number, agreement.rank, agreement.world_size),
    )
    loop.settle, loop.enter = saver.settle, lambda section, finished_steps: saver.heartbeat(finished_steps)
    return loop.run(0)


def train_while_uploads_wait(agreement: Agreement, folder: str) -> Any:
    """Every upload of step 4 begins only after step 5 is finished; step 2's is over before step 3 is."""
    released = {2: threading.Event(), 4: threading.Event()}

    def wait(action: str, key: str) -> None:
        for step, event in released.items():
            if f"step-{step:08d}" in key and "rank-" in key:
                assert event.wait(PATIENCE)

    def beat(step: int) -> None:
        if step == 5:
            released[4].set()
        released[2].set()

    recorder = Recorder(beat)
    finished = train(agreement, WrappedStore(LocalStore(Path(folder)), before=wait), recorder, Path(folder))
    return finished, recorder.committed


def train_and_keep(agreement: Agreement, folder: str) -> Any:
    """The oracle: the same training, whose states are copied once more at once and compared later; saves nothing."""
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def keep(state: LocalState, reason: str) -> None:
        parts: list[Any] = [None] * agreement.world_size
        dist.all_gather_object(parts, {p.name: p.values.view(p.shape).clone() for p in state.pieces})
        kept[state.step] = {name: tensor for part in parts for name, tensor in part.items()}

    loop = toy_loop(
        Toy(),
        stop_step=STOP,
        save_every=2,
        save=keep,
        plan_step=lambda number: toy_step(number, agreement.rank, agreement.world_size),
    )
    loop.run(0)
    return {step: {name: tensor.numpy() for name, tensor in tensors.items()} for step, tensors in kept.items()}


def test_a_commit_holds_its_steps_values_although_training_went_on(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = run_ranks(2, tmp_path / "meeting", train_while_uploads_wait, str(root))
    assert answers == [(STOP, [2, 4, 6, 7])] * 2
    expected = run_ranks(2, tmp_path / "another", train_and_keep, str(root))[0]
    store = LocalStore(root)
    commits = list_commits(store)
    assert [commit.step for commit in commits] == [7, 6, 4, 2]
    for commit in commits:
        manifest = read_manifest(store, commit)
        found = read_whole(CommitReader(store, commit, manifest)).tensors
        assert found.keys() == expected[commit.step].keys()
        for name, tensor in found.items():
            assert tensor.equal(torch.from_numpy(expected[commit.step][name])), (commit.step, name)
        assert manifest.spool_segments == ["closed-when-the-state-was-copied"]
    assert not (expected[4]["model/first.weight"] == expected[6]["model/first.weight"]).all(), "training went on"


def train_with_a_failing_upload(agreement: Agreement, folder: str, rank: int, code: int) -> Any:
    """The store of one rank refuses what is written for step 2."""
    store: ObjectStore = LocalStore(Path(folder))
    if agreement.rank == rank:
        refusal = raising(lambda: StorageError("no", remedy="ask", exit_code=ExitCode(code)), f"0002/.*rank-{rank}")
        store = WrappedStore(store, before=refusal)
    steps: list[int] = []
    try:
        train(agreement, store, Recorder(steps.append), Path(folder))
    except CheckpointError as error:
        return steps[-1], error.message, error.remedy, int(error.exit_code)


@pytest.mark.parametrize("code", [ExitCode.CREDENTIALS, ExitCode.UNAVAILABLE])
def test_a_failed_upload_of_one_rank_ends_all_at_one_step_with_its_code(tmp_path: Path, code: ExitCode) -> None:
    first, second = run_ranks(2, tmp_path / "meeting", train_with_a_failing_upload, str(tmp_path / "run"), 1, int(code))
    assert first == second
    assert 2 < first[0] <= 4, "at the next save at the latest"
    assert first[1:] == ("writing the checkpoint of step 2 failed: rank 1: no", "ask", int(code))
    assert list_commits(LocalStore(tmp_path / "run")) == []


def stop_while_an_upload_waits(agreement: Agreement, folder: str) -> Any:
    """Rank 1 is asked to stop between steps 3 and 4, and only then its upload of step 2 goes on; all stop at step 5."""
    flag, asked = SimpleNamespace(requested=False), threading.Event()

    def wait(action: str, key: str) -> None:
        assert "0002/" not in key or "rank-1" not in key or asked.wait(PATIENCE)

    def beat(step: int) -> None:
        if step == 3 and agreement.rank == 1:
            flag.requested = True
            asked.set()

    recorder = Recorder(beat)
    with pytest.raises(Interrupted):
        train(agreement, WrappedStore(LocalStore(Path(folder)), before=wait), recorder, Path(folder), flag)
    return recorder.committed


def test_a_stop_request_waits_for_the_save_in_flight_and_saves_once_more(tmp_path: Path) -> None:
    assert run_ranks(2, tmp_path / "meeting", stop_while_an_upload_waits, str(tmp_path / "run")) == [[2, 4, 5]] * 2
    assert [commit.step for commit in list_commits(LocalStore(tmp_path / "run"))] == [5, 4, 2]


def test_one_save_is_in_flight_and_the_next_waits_for_it(dictionary_store: DictionaryStore) -> None:
    release = threading.Event()

    def wait(action: str, key: str) -> None:
        if "step-00000010" in key and "rank-0" in key:
            assert release.wait(PATIENCE)

    keeper = checkpointer(WrappedStore(dictionary_store, before=wait))
    keeper.begin(small_state(10), "periodic")
    assert keeper.poll() is None and not keeper.failed
    second = threading.Thread(target=keeper.begin, args=(small_state(20), "periodic"))
    second.start()
    assert list_commits(dictionary_store) == [] and second.is_alive()
    release.set()
    second.join(PATIENCE)
    commit = keeper.settle()
    assert commit is not None and commit.step == 20
    assert keeper.settle() is None and keeper.poll() is None
    assert [found.step for found in list_commits(dictionary_store)] == [20, 10]
    loads(dictionary_store, 20)


def test_a_slow_save_that_is_waited_for_and_every_read_tick(
    dictionary_store: DictionaryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimrg_trainer.checkpoint.checkpointer.TICK_SECONDS", 0.01)
    sections, ticked = SectionFile(tmp_path, 0), threading.Event()
    sections.enter("save", 10)

    def tick() -> None:
        sections.tick()
        ticked.set()

    def wait(action: str, key: str) -> None:
        assert "rank-0" not in key or ticked.wait(PATIENCE), "a launcher would call this a stall"

    keeper = checkpointer(WrappedStore(dictionary_store, before=wait), tick=tick)
    keeper.save(small_state(10), "final")
    before = read_positions(tmp_path)[0]
    assert (before.section, before.step) == ("save", 10) and before.count > 2
    assert loaded_by(keeper) is not None
    assert read_positions(tmp_path)[0].count == before.count + len(small_state(10).pieces)


def test_a_failed_save_is_raised_once_and_the_next_may_succeed(dictionary_store: DictionaryStore) -> None:
    refusals = raising(lambda: StorageError("away"), "step-00000010/.*rank-0")
    keeper = checkpointer(WrappedStore(dictionary_store, before=refusals))
    keeper.begin(small_state(10), "periodic")
    with pytest.raises(CheckpointError, match="away"):
        keeper.begin(small_state(20), "periodic")
    keeper.save(small_state(30), "final")
    loaded = loaded_by(keeper)
    assert loaded is not None
    assert_same(loaded[1], joined(small_state(30)))


def test_what_the_manifest_names_is_there_before_it(dictionary_store: DictionaryStore) -> None:
    def refuse() -> None:
        raise StorageError("the segments cannot be stored")

    keeper = checkpointer(dictionary_store)
    with pytest.raises(CheckpointError, match="segments cannot be stored"):
        keeper.save(small_state(10), "periodic", spool_segments=["a"], before_commit=refuse)
    assert list_commits(dictionary_store) == []
