"""The examples of the other families as they stand: each runs to its end, and every objective is learnt."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unimrg_trainer.evaluation.summary import Summary

pytestmark = [pytest.mark.long, pytest.mark.timeout(700)]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", ["openuni", "showo"])
def test_the_example_of_a_family_learns_every_objective(family: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = [sys.executable, "-m", "unimrg_cli.main", "run", f"examples/quickstart-{family}.yaml"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = tmp_path / "runs" / f"quickstart-{family}" / "results"
    summary = Summary.from_json((results / "summary.json").read_text())
    assert set(summary.held_out) == {"Understanding", "Pixel", "Depth", "Segmentation"}
    for name, loss in summary.held_out.items():
        assert loss.excludes_zero and loss.relative_change is not None and loss.relative_change < -0.15, name
    assert (results / "grid.png").stat().st_size > 1000
