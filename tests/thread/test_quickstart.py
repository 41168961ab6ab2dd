"""The README's main job as it stands: it learns, says how much, and the README's numbers are those of such a run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unimrg_trainer.evaluation.summary import Summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1300)]
ROOT = Path(__file__).parents[2]
CHANGE = {"Understanding": -0.9, "Pixel": 0.15, "Depth": -0.8, "Segmentation": -0.8}
"""Largest relative change of each held-out loss. The base can redraw pixels already, and must not lose it."""
OBJECTIVES = tuple(CHANGE)
MINIMUM_ROWS = 256


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished quick start, run from a copy of examples/, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "examples", folder / "examples")
    done = subprocess.run(
        [sys.executable, "-m", "unimrg_cli.main", "run", "examples/quickstart.yaml"],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "runs" / "quickstart", done.stdout


def summary_of(run: Path) -> Summary:
    return Summary.from_json((run / "results" / "summary.json").read_text())


def test_every_objective_is_learnt_and_pixels_are_kept(finished: tuple[Path, str]) -> None:
    summary = summary_of(finished[0])
    assert set(summary.held_out) == set(OBJECTIVES)
    for name, loss in summary.held_out.items():
        assert loss.n >= MINIMUM_ROWS, name
        assert loss.relative_change is not None and loss.relative_change <= CHANGE[name], name


def test_the_method_is_seen_to_work(finished: tuple[Path, str]) -> None:
    """Answers beat every constant one; each loss needs the right image; maps are those of their image."""
    summary = summary_of(finished[0])
    answers = summary.benchmarks["spatial"].metrics
    assert answers["acc"] >= 65 and answers["acc_low"] > answers["majority_acc"]
    for name, use in summary.image_use.items():
        assert use.interval is not None and use.interval.low > 0, name
    maps = summary.benchmarks["generatedMaps"].metrics
    assert maps["depth/object_error_gain_mean_map_low"] > 0
    for score in ("depth/absrel", "depth/object_error", "segmentation/f1", "pixel/psnr"):
        assert maps[f"{score}_gain_other_image_low"] > 0, score


def test_the_accuracy_is_printed_with_n_interval_and_the_majority_answers(finished: tuple[Path, str]) -> None:
    run, printed = finished
    metrics = summary_of(run).benchmarks["spatial"].metrics
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["all"])
    assert f"{metrics['n']:.0f}" in line
    assert f"{metrics['acc']:.1f} [{metrics['acc_low']:.1f}, {metrics['acc_high']:.1f}]" in line
    assert f"{metrics['majority_acc']:.1f}" in line


def test_the_pictures_can_be_looked_at_and_the_run_is_in_mlflow(finished: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    run, _ = finished
    for name in ("grid.png", "curves.png"):
        picture = Image.open(run / "results" / name).convert("RGB")
        assert min(picture.size) > 300
        assert len(picture.getcolors(1 << 24) or []) > 100
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    summary = summary_of(run)
    assert found.info.status == "FINISHED"
    assert found.data.tags["unimrg.job_uid"] == summary.uid
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1, summary.steps + 1))
    assert found.data.metrics["eval/spatial/acc"] == summary.benchmarks["spatial"].metrics["acc"]
    assert "results" in {item.path for item in client.list_artifacts(found.info.run_id)}


def test_the_numbers_of_the_readme_are_those_of_this_run(finished: tuple[Path, str]) -> None:
    """Within what another processor may change: 2 % before training, 30 % after it."""
    summary = summary_of(finished[0])
    readme = (ROOT / "README.md").read_text()
    for name in OBJECTIVES:
        row = re.search(rf"^\| {name} \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", readme, re.MULTILINE)
        assert row is not None, f"the README's table has no row for {name}"
        loss = summary.held_out[name]
        assert int(row[1]) == loss.n
        assert float(row[2]) == pytest.approx(loss.before, rel=0.02)
        assert float(row[3]) == pytest.approx(loss.after, rel=0.30)
