"""What rank 0 records of a training, whatever the disk does and however its steps fall into reports."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_trainer.engine.loop import LoopReport
from unimrg_trainer.engine.metrics import StepMetrics
from unimrg_trainer.engine.rank_times import SlowestRank
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.storage.patient import Waits
from unimrg_trainer.tracking.segments import read_curves

SKIPPED = [False, True, False, True, True]


def setup_of(folder: Path) -> Any:
    """What a reporter asks of the setup: a job with one objective, on the only rank."""
    folder.mkdir()
    job, _ = tiny_job(folder)
    env = SimpleNamespace(run_dir=folder / "local", attempt="1", nodes=1, node_rank=0, spec_base=folder)
    setup: Any = SimpleNamespace(job=job, env=env, rank=0, world_size=1, data_digest="d", operations=None)
    setup.waits = Waits()
    setup.objectives, setup.objective_weights = ["Depth"], {"Depth": 1.0}
    setup.family, setup.run_store = SimpleNamespace(name="harmon", variant="Tiny"), LocalStore(folder / "run")
    return setup


def test_a_report_says_how_training_is_spread_and_why_the_first_step_is_long(tmp_path: Path) -> None:
    """Where a forward waits for other ranks, none is called slow."""
    reports = Reporter(setup_of(tmp_path / "job"), 5, 2, 0, 1)
    reports.first_step_compiles(24)
    first = read_progress(tmp_path / "job" / "local")
    assert first.message == "DDP, 1 process; the first step compiles 24 blocks, which takes minutes"
    reports.report(LoopReport([StepMetrics(3, {"Depth": 0.5}, 0.5, 1.0, False, {})], [0.1], 0, 1.0, 0.0, None))
    reports.close()
    later = read_progress(tmp_path / "job" / "local")
    assert (later.step, later.message, later.slowest_rank) == (3, "DDP, 1 process", None)
    recorded = read_curves(tmp_path / "job" / "local" / "spool")
    assert "perf/step_s" in recorded and not any("slowest" in name for name in recorded)


def test_what_a_training_waits_for_stands_before_the_rest_and_goes(tmp_path: Path) -> None:
    setup = setup_of(tmp_path / "job")
    reports = Reporter(setup, 5, 2, 0, 1)
    setup.waits.show("waiting for storage")
    assert read_progress(tmp_path / "job" / "local").message == "waiting for storage; DDP, 1 process"
    setup.waits.show("")
    assert read_progress(tmp_path / "job" / "local").message == "DDP, 1 process"
    reports.close()


def curves(folder: Path, *windows: range) -> dict[str, dict[int, float]]:
    """What is recorded when these windows of steps are reported."""
    reports = Reporter(setup_of(folder), 5, 0, 0, 1)
    for window in windows:
        points = [StepMetrics(n + 1, {"Depth": 0.5}, 0.5, 1.0, SKIPPED[n], {}) for n in window]
        reports.report(
            LoopReport(
                points, [0.1] * len(window), sum(SKIPPED[: window.stop]), 1.0, 0.0, SlowestRank(0, 1.0, 0.5, 0.0)
            )
        )
    reports.close()
    return read_curves(folder / "local" / "spool")


def test_the_number_of_skipped_steps_does_not_depend_on_the_windows(tmp_path: Path) -> None:
    once, twice = curves(tmp_path / "once", range(5)), curves(tmp_path / "twice", range(2), range(2, 5))
    assert once["train/skipped_steps"] == {1: 0, 2: 1, 3: 1, 4: 2, 5: 3}
    assert once == twice


def test_a_disk_that_is_full_from_the_start_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    setup = setup_of(tmp_path / "job")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        patch.setattr(Path, "write_bytes", full)
        reports = Reporter(setup, 5, 0, 0, 1)
        reports.record_checkpoint(4, 1.0, 0.1)
        reports.close()

    left = sorted(path.name for path in (tmp_path / "job" / "local").iterdir())
    assert left == ["spool", "unimrgjob.json"], "every attempt to write left a file"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(",")[0].partition(" in ")[0] for text in warnings] == [
        "the job is not tracked",
        "the progress",
    ]
