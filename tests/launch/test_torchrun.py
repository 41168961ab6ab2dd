"""The launcher over real torchrun and real ranks: what is left alive, and which code comes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.alive import alive
from unimrg_trainer.launch import exit_records, torchrun

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 90.0

Launch = Callable[..., "Launched"]


class Launched:
    """A launcher process and its run directory."""

    def __init__(self, folder: Path, *scripts: str, processes: int = 2, grace: int = 60, stall: int = 120) -> None:
        self.folder = folder
        arguments = [str(folder), str(processes), str(grace), str(stall), *scripts]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.launched", *arguments],
            cwd=REPOSITORY,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ranks(self, count: int) -> list[int]:
        """Process ids of the ranks, once `count` have registered."""
        until(lambda: len(exit_records.registered(self.folder)) >= count or self.process.poll() is not None)
        pids = exit_records.registered(self.folder)
        assert len(pids) >= count, self.log()
        return [pid for _, pid in sorted(pids.items())]

    def code(self, limit: float = START_SECONDS) -> int:
        return self.process.wait(limit)

    def verdict(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.folder / "verdict.json").read_text())
        return content

    def log(self, name: str = "torchrun-0") -> str:
        return (self.folder / "logs" / "attempt-1" / f"{name}.log").read_text()


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


def until(condition: Callable[[], bool], limit: float = START_SECONDS) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_killed_launcher_leaves_no_rank_alive_after_five_seconds(launch: Launch) -> None:
    launched = launch("deaf")
    ranks = launched.ranks(2)
    launched.process.kill()
    until(lambda: not any(alive(pid) for pid in ranks), limit=5)


def test_a_stop_lets_every_rank_finish_its_commit_and_reports_an_interruption(launch: Launch) -> None:
    launched = launch("slow_commit", "wait")
    ranks = launched.ranks(2)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 85
    assert (launched.folder / "committed").read_text() == "7"
    assert not any(alive(pid) for pid in ranks)
    assert launched.verdict()["message"] == "stopped after step 7, committed at step 7"


def test_a_second_interrupt_kills_everything_at_once(launch: Launch) -> None:
    launched = launch("deaf")
    ranks = launched.ranks(2)
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    launched.process.send_signal(signal.SIGINT)
    assert launched.code(limit=10) == 130
    assert not any(alive(pid) for pid in ranks)


def test_ranks_that_do_not_stop_are_killed_before_the_grace_period_ends(launch: Launch) -> None:
    launched = launch("deaf", processes=1, grace=2)
    (rank,) = launched.ranks(1)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code(limit=10) == 85
    assert not alive(rank)
    assert "grace period" in str(launched.verdict()["message"])


def test_a_killed_rank_ends_the_gang_and_is_named_as_the_cause(launch: Launch) -> None:
    launched = launch("wait")
    ranks = launched.ranks(2)
    os.kill(ranks[1], signal.SIGKILL)
    assert launched.code() == 137
    assert launched.verdict()["rank"] == 1
    assert not any(alive(pid) for pid in ranks)
    assert torchrun.statuses_in_log(launched.log())[ranks[1]] == -signal.SIGKILL


def test_a_failing_rank_ends_the_gang_with_its_own_code_and_words(launch: Launch) -> None:
    launched = launch("wait", "wrong_data")
    assert launched.code() == 65
    assert launched.verdict()["message"] == "shard 3 has another digest (prepare it again)"
    assert "shard 3" in launched.log("rank-1") and "Traceback" not in launched.log("rank-1")


def test_a_stalled_gang_leaves_stacks_of_all_ranks_and_reports_a_stall(launch: Launch) -> None:
    launched = launch("stuck", stall=1)
    ranks = launched.ranks(2)
    assert launched.code() == 75
    assert "waiting_for_a_step_that_never_comes" in launched.log("rank-0")
    assert "waiting_for_a_step_that_never_comes" in launched.log("rank-1")
    assert "'train', 3" in str(launched.verdict()["message"])
    assert not any(alive(pid) for pid in ranks)


def test_a_stop_before_any_rank_has_started_ends_at_once(launch: Launch) -> None:
    launched = launch("wait")
    until(lambda: (launched.folder / "logs" / "attempt-1" / "torchrun-0.log").exists())
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 85


def test_completed_ranks_had_the_cores_divided_among_them(launch: Launch) -> None:
    launched = launch("done", processes=1)
    assert launched.code() == 0
    expected = os.environ.get("OMP_NUM_THREADS") or str(torchrun.cores())
    assert (launched.folder / "threads-0").read_text() == expected


def test_a_taken_port_is_replaced_on_a_single_node() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert torchrun.free_port("127.0.0.1", taken) not in (0, taken)
    assert torchrun.free_port("127.0.0.1", taken) == taken
