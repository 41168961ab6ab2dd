"""What somebody who waits gets to see."""

from __future__ import annotations

import io
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from unimrg_api.progress import Progress
from unimrg_trainer.files import write_atomically
from unimrg_trainer.launch import live_view
from unimrg_trainer.launch.progress_server import serve_progress

HALFWAY = Progress(
    stage="train",
    step=30,
    total_steps=60,
    eta_seconds=75,
    losses={"pixel": 0.5},
    samples_per_second=12.0,
    checkpoint_step=20,
    updated=1.0,
)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that returns what is written while reports come one after the other."""
    fetches, fetch_once, fetched = 0, live_view.fetch, threading.Condition()

    def fetch(port: int) -> Progress | None:
        nonlocal fetches
        report = fetch_once(port)
        with fetched:
            fetches += 1
            fetched.notify_all()
        return report

    def show(*reports: Progress, terminal: bool) -> str:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=160, color_system=None)
        with serve_progress(tmp_path, "127.0.0.1", 0) as port, live_view.live_view(console, port):
            for report in reports:
                write_atomically(tmp_path / "progress.json", report.to_json())
                with fetched:  # one may be under way, the next has the report, one more: it has been shown
                    enough = fetches + 3
                    assert fetched.wait_for(lambda enough=enough: fetches >= enough, 10)
        return output.getvalue()

    monkeypatch.setattr(live_view, "fetch", fetch)
    return show


def test_a_proxy_is_not_asked_for_our_own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    (tmp_path / "progress.json").write_text(HALFWAY.to_json())
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        report = live_view.fetch(port)
    assert report is not None and report.step == 30
    assert live_view.fetch(port) is None, "the server is gone"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_view, "POLL_SECONDS", 0.02)


def test_a_log_gets_a_line_with_steps_losses_speed_and_time_left(shown: Callable[..., str]) -> None:
    text = shown(HALFWAY, terminal=False)
    assert text == "train  30/60  1m15s left  pixel 0.500  12.0 rows/s  committed 20\n"


def test_a_log_is_not_flooded_but_a_new_stage_is_written_at_once(shown: Callable[..., str]) -> None:
    steps = [HALFWAY.model_copy(update={"step": step}) for step in range(30, 34)]
    text = shown(*steps, Progress(stage="evaluate", updated=2.0), terminal=False)
    assert [line.split()[0] for line in text.splitlines()] == ["train", "evaluate"]


def test_a_terminal_shows_every_stage_and_the_line_of_now(shown: Callable[..., str]) -> None:
    prepared = Progress(stage="prepare", step=8, total_steps=8, updated=1.0)
    text = shown(prepared, HALFWAY, terminal=True)
    assert "prepare  8/8" in text
    assert "train  30/60  1m15s left  pixel 0.500" in text.rpartition("prepare")[2]
