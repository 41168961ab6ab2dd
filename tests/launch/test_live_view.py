"""What somebody who waits gets to see."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unimrg_api.progress import Progress
from unimrg_api.stages import StageName
from unimrg_trainer.files import write_atomically
from unimrg_trainer.launch import live_view
from unimrg_trainer.launch.signals import StopRequest

HALFWAY = Progress(
    stage="train",
    step=30,
    total_steps=60,
    eta_seconds=75,
    losses={"pixel": 0.5},
    rows_per_second=12.0,
    checkpoint_step=20,
    updated=1.0,
)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that returns what is written while reports come one after the other."""
    reads, read_once, was_read = 0, live_view.read_progress, threading.Condition()

    def read(run_dir: Path) -> Progress:
        nonlocal reads
        report = read_once(run_dir)
        with was_read:
            reads += 1
            was_read.notify_all()
        return report

    def show(*reports: Progress, terminal: bool) -> str:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=160, color_system=None)
        with live_view.live_view(console, tmp_path):
            for report in reports:
                write_atomically(tmp_path / "progress.json", report.to_json())
                with was_read:  # one may be under way, the next has the report, one more: it has been shown
                    enough = reads + 3
                    assert was_read.wait_for(lambda enough=enough: reads >= enough, 10)
        return output.getvalue()

    monkeypatch.setattr(live_view, "read_progress", read)
    return show


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_view, "POLL_SECONDS", 0.02)


def test_a_log_gets_a_line_with_steps_losses_speed_and_time_left(shown: Callable[..., str]) -> None:
    text = shown(HALFWAY, terminal=False)
    assert text == "train  30/60  1m15s left  pixel 0.500  12.0 rows/s  checkpoint 20\n"


def test_a_stage_without_steps_says_what_it_is_at(shown: Callable[..., str]) -> None:
    report = Progress(stage="evaluate", step=0, total_steps=1, message="spatial, block 1 of 1", updated=1.0)
    assert shown(report, terminal=False) == "evaluate  spatial, block 1 of 1\n"
    text = shown(HALFWAY.model_copy(update={"message": "ZeRO1, 8 processes"}), terminal=False)
    assert text.startswith("train  30/60  ") and text.endswith("  ZeRO1, 8 processes\n")


def test_a_log_has_the_last_step_of_a_stage_and_at_once_a_new_one(shown: Callable[..., str]) -> None:
    steps = [HALFWAY.model_copy(update={"step": step}) for step in range(30, 34)]
    text = shown(*steps, Progress(stage="evaluate", updated=2.0), terminal=False)
    assert [line.split()[:2] for line in text.splitlines()] == [["train", "30/60"], ["train", "33/60"], ["evaluate"]]


def test_trouble_with_mlflow_is_said_whole_and_once(tmp_path: Path, shown: Callable[..., str]) -> None:
    problem = "MLflow at http://server refuses this job's records: 401; check the password" + " and more" * 20
    write_atomically(tmp_path / "mlflow.json", json.dumps({"problem": problem}))
    text = shown(HALFWAY, HALFWAY.model_copy(update={"step": 31}), terminal=True)
    assert text.replace("\n", "").count(f"Tracking: {problem}. Training goes on.") == 1


def test_a_terminal_shows_every_stage_and_the_line_of_now(shown: Callable[..., str]) -> None:
    prepared = Progress(stage="prepare", step=8, total_steps=8, updated=1.0)
    text = shown(prepared, HALFWAY, terminal=True)
    assert "prepare  8/8" in text
    assert "train  30/60  1m15s left  pixel 0.500" in text.rpartition("prepare")[2]


def test_a_notice_is_shown_once_and_skipped_steps_as_long_as_there_are_some(shown: Callable[..., str]) -> None:
    damaged = HALFWAY.model_copy(update={"notice": "step 20 is damaged", "skipped_steps": 2})
    later = damaged.model_copy(update={"step": 40, "updated": 2.0})
    text = shown(HALFWAY, damaged, later, terminal=False)
    assert text.count("Note: step 20 is damaged.") == 1
    assert "2 skipped steps" in text


@pytest.mark.parametrize(("stage", "saves"), [("train", True), ("evaluate", False)])
def test_a_stop_request_is_acknowledged_with_what_follows(stage: StageName, saves: bool, tmp_path: Path) -> None:
    write_atomically(tmp_path / "progress.json", Progress(stage=stage, updated=1.0).to_json())
    stop, output = StopRequest(), io.StringIO()
    acknowledged = threading.Event()

    class Terminal(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*objects, **options)
            if "Stopping" in str(objects[0]):
                acknowledged.set()

    stop.request("SIGINT")
    with live_view.live_view(Terminal(file=output), tmp_path, stop):
        assert acknowledged.wait(30)
    assert ("a checkpoint is saved first" in output.getvalue()) == saves
    assert output.getvalue().count("Press Ctrl-C again") == 1
