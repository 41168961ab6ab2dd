"""The launcher over real ranks: what is left alive, and which code comes out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.alive import alive
from tests.support.waiting import wait_until
from unimrg_api.environment import PodEnvironment
from unimrg_trainer.launch import worker_group

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 90.0

Launch = Callable[..., "Launched"]


class Launched:
    """A launcher process and its run directory."""

    def __init__(self, folder: Path, *scripts: str, processes: int = 2, grace: int = 60, stall: int = 120) -> None:
        self.folder = folder
        arguments = [str(folder), str(processes), str(grace), str(stall), *scripts]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.launched", *arguments], cwd=REPOSITORY, start_new_session=True
        )

    def ranks(self, count: int) -> list[int]:
        """Process ids of the ranks, once `count` are at work."""
        wait_until(lambda: len(self._at_work()) >= count or self.process.poll() is not None)
        assert len(self._at_work()) >= count, self.launcher_log()
        return [int(path.read_text()) for path in self._at_work()]

    def _at_work(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("up-*") if path.read_text())

    def code(self, limit: float = START_SECONDS) -> int:
        return self.process.wait(limit)

    def result(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / "result.json").read_text())
        return content

    def log(self, rank: int) -> str:
        return (self.folder / "logs" / f"rank-{rank}.log").read_text()

    def launcher_log(self) -> str:
        return (self.folder / "launcher.log").read_text()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    started: list[Launched] = []

    def start(*scripts: str, **options: int) -> Launched:
        started.append(Launched(tmp_path, *scripts, **options))
        return started[-1]

    yield start
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
            launched.process.wait()


def test_no_rank_outlives_a_killed_launcher_by_five_seconds(launch: Launch) -> None:
    launched = launch("deaf")
    ranks = launched.ranks(2)
    launched.process.kill()
    wait_until(lambda: not any(alive(pid) for pid in ranks), seconds=5)


def test_a_stop_lets_every_rank_finish_its_commit(launch: Launch) -> None:
    launched = launch("slow_commit", "wait")
    ranks = launched.ranks(2)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 85
    assert (launched.folder / "committed").read_text() == "7"
    assert not any(alive(pid) for pid in ranks)
    assert launched.result()["message"] == "stopped after step 7; a checkpoint was saved"


def test_a_second_interrupt_kills_everything_at_once(launch: Launch) -> None:
    launched = launch("deaf")
    ranks = launched.ranks(2)
    launched.process.send_signal(signal.SIGINT)
    wait_until(lambda: "SIGINT" in launched.launcher_log())
    launched.process.send_signal(signal.SIGINT)
    assert launched.code(limit=10) == 130
    assert not any(alive(pid) for pid in ranks)


def test_ranks_that_do_not_stop_are_killed_within_the_grace_period(launch: Launch) -> None:
    launched = launch("deaf", processes=1, grace=2)
    (rank,) = launched.ranks(1)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code(limit=10) == 85
    assert not alive(rank)
    assert "grace period" in str(launched.result()["message"])


def test_a_killed_rank_ends_its_hung_peer_and_is_the_cause(launch: Launch) -> None:
    launched = launch("hung_peer", "wait")
    ranks = launched.ranks(2)
    os.kill(ranks[1], signal.SIGKILL)
    assert launched.code() == 137
    assert launched.result()["rank"] == 1
    assert not any(alive(pid) for pid in ranks)


def test_a_crash_in_native_code_is_named_and_its_peers_may_commit(launch: Launch) -> None:
    launched = launch("slow_commit", "crash")
    assert launched.code() == 70
    assert "SIGABRT" in str(launched.result()["message"])
    assert (launched.folder / "committed").read_text() == "7"
    assert "Fatal Python error: Aborted" in launched.log(1)


def test_a_stall_leaves_the_stacks_of_all_ranks_in_their_logs(launch: Launch) -> None:
    launched = launch("stuck", stall=3)  # enough for a rank to get from its report into the function
    ranks = launched.ranks(2)
    assert launched.code() == 75
    assert "waiting_for_a_step_that_never_comes" in launched.log(0)
    assert "waiting_for_a_step_that_never_comes" in launched.log(1)
    message = str(launched.result()["message"])
    assert "train, step 3" in message
    assert "rank 0: step after 3 steps" in message and "rank 1: fetch after 3 steps" in message
    assert not any(alive(pid) for pid in ranks)


def test_a_stop_while_ranks_still_start_reaches_them_all(launch: Launch) -> None:
    launched = launch("wait")
    wait_until(lambda: (launched.folder / "logs" / "rank-1.log").exists())
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 85
    assert launched.result()["message"] == "stopped after step 7; a checkpoint was saved"


def test_ranks_share_the_cores_and_a_rank_that_completes_ends_with_0(launch: Launch) -> None:
    launched = launch("done", processes=1)
    assert launched.code() == 0
    expected = os.environ.get("OMP_NUM_THREADS") or str(worker_group.cores())
    assert (launched.folder / "threads-0").read_text() == expected


def test_a_number_of_threads_that_is_set_counts_unless_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_group, "cores", lambda: 6)
    for set_to, expected in (("5", "5"), ("", "3")):
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
        assert worker_group.group_environment(PodEnvironment(processes=2))["OMP_NUM_THREADS"] == expected


def test_a_port_in_use_is_replaced_on_a_single_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert worker_group.free_port("127.0.0.1", taken) not in (0, taken)
    assert worker_group.free_port("127.0.0.1", taken) == taken
