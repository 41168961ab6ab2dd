"""The whole line with nothing built in behind its extension points: a family, a map and a benchmark of a package.

The package is a folder on PYTHONPATH with entry points (tests/toys). Its job is stopped, resumed, evaluated and closed.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.local_jobs import tiny_job
from tests.thread.test_interruptions import points, start
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.evaluation.summary import Summary

TOYS = Path(__file__).parents[1] / "toys"
STEPS = 200


def write_job(folder: Path) -> Path:
    _, file = tiny_job(
        folder,
        model={"custom": {"name": "toy", "settings": {"width": 16}}},
        objectives=[{"name": "Understanding", "weight": "1"}, {"custom": "brightness", "weight": "0.5"}],
        training__optimizer={"learningRate": "3e-3"},
        training__schedule={"warmupSteps": 5, "totalSteps": STEPS},
        training__precision="FP32",
        trainer__processesPerNode=2,
        checkpoint__everySteps=10,
        stages={
            "evaluate": {
                "benchmarks": [{"custom": {"name": "words"}}, {"custom": {"name": "bright-and-dark"}}],
                "heldOutRows": 2,
                "sampleImages": 1,
            }
        },
    )
    return file


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_a_package_brings_a_family_a_map_and_a_benchmark(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    path = os.pathsep.join([str(TOYS), *filter(None, [os.environ.get("PYTHONPATH")])])
    first = start(job, PYTHONPATH=path)
    first.wait_for_commit(10)
    first.process.send_signal(signal.SIGINT)
    assert first.wait() == 85
    stopped = list_commits(first.run)[0].step
    assert 10 <= stopped < STEPS

    assert start(job, PYTHONPATH=path).wait() == 0
    run = tmp_path / "run"
    log = (run / "logs" / "attempt-2" / "train" / "rank-0.log").read_text()
    assert re.search(rf"resumed from step {stopped}\b", log)
    assert list_commits(first.run)[0].step == STEPS
    summary = Summary.from_json((run / "results" / "summary.json").read_text())
    assert summary.model == "toy small"
    assert set(summary.held_out) == {"Understanding", "brightness"}
    assert {name: len(one.table.rows) for name, one in summary.benchmarks.items()} == {"words": 2, "bright-and-dark": 2}
    brightness = summary.held_out["brightness"]
    assert brightness.after < brightness.before
    assert (run / "results" / "grid.png").stat().st_size > 1000
    counts = points(job)
    assert {step for key, step in counts if key == "train/loss/brightness"} == set(range(1, STEPS + 1))
    assert max(counts.values()) == 1
