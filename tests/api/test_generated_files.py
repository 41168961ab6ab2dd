"""The files that follow from the models say what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimrg_api.generate import drifted, main
from unimrg_api.reference import reference

REPOSITORY = Path(__file__).parents[2]


def test_no_generated_file_has_drifted() -> None:
    assert drifted(REPOSITORY) == [], "run `python -m unimrg_api.generate`"


def test_what_was_written_is_found_in_order_and_what_was_changed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    capsys.readouterr()
    (tmp_path / "manifests" / "crd.yaml").write_text("kind: Other\n")
    assert main(["--check"], tmp_path) == 1
    message = "manifests/crd.yaml has drifted from the models: run `python -m unimrg_api.generate`\n"
    assert capsys.readouterr().err == message


def test_a_flag_that_is_not_known_writes_nothing(tmp_path: Path) -> None:
    assert main(["--verify"], tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_page_names_bounds_choices_and_defaults() -> None:
    page = reference()
    assert "| `spec.trainer.nodes` | integer, 1 to 64 | `1` |" in page
    assert '| `spec.training.optimizer.learningRate` | decimal string | `"1e-5"` |' in page
    assert "| `spec.objectives[].name` | `Understanding`, `Pixel`, `Depth`, `Segmentation` | – |" in page


def test_the_page_names_rules_and_what_a_cluster_refuses() -> None:
    between, cluster = reference().partition("## Rules between fields")[2].split("## What a cluster refuses")
    assert "| `spec.training.schedule.warmupSteps` | The warm-up does not end within the schedule" in between
    assert "| `spec.trainer.volumes[].mountPath` | Pods use /cache" in between
    assert "`spec.checkpoint.uri` | A file:// URI works on a cluster only if" in cluster
    assert "`spec.tracking.mlflow.uri` | A cluster needs a tracking server" in cluster
