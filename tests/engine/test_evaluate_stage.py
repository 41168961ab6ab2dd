"""The whole evaluate stage after a short training: what it compares, scores, writes and records."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.train_stage import run_stage
from unimrg_api.errors import Interrupted
from unimrg_trainer.engine import evaluate
from unimrg_trainer.engine.initial_weights import weights_digest
from unimrg_trainer.engine.results import Results
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.rng import key_digest
from unimrg_trainer.sections import read_positions
from unimrg_trainer.tracking.segments import read_curves, read_records

HELD_OUT = 3


@pytest.mark.timeout(120)
def test_trained_maps_are_scored_and_losses_measured_with_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segmentation is in the data and not trained, so it is neither asked for nor measured.

    Questions are about the images that are generated, one of each, so that each is a unit of its own.
    """
    job, _ = tiny_job(
        tmp_path,
        model__harmon__sampling={"steps": 2, "diffusionSteps": 2, "guidance": "1"},
        objectives=[{"name": name, "weight": "1"} for name in ("Understanding", "Pixel", "Depth")],
        training__optimizer={"learningRate": "1e-2"},
        training__stopStep=4,
        training__batch__imageSharing="All",
        data__sources=[{"scenes": {"train": 4, "heldOut": HELD_OUT, "imageSize": 32, "seed": 1}}],
        stages={"evaluate": {"benchmarks": [{"generatedMaps": {"images": 8}}], "heldOutRows": 3, "sampleImages": 0}},
    )
    prepare_data(job, tmp_path)
    run_stage(tmp_path, job, 1, monkeypatch)
    run_stage(tmp_path, job, 2, monkeypatch, stage=evaluate.main)
    (work,) = read_positions(tmp_path / "pod-2").values()
    assert work.section == "evaluate" and work.count > 20, "the watchdog saw every batch, round and piece"

    summary = Summary.from_json((tmp_path / "run" / "results" / "summary.json").read_text())
    assert list(summary.image_use) == list(summary.held_out) == ["Understanding", "Pixel", "Depth"]
    for name, use in summary.image_use.items():
        assert use.own == pytest.approx(summary.held_out[name].after) and use.n == 3
        assert (use.interval is None) == (use.units == 1)
        if name != "Understanding":
            assert use.difference != 0, name
    assert summary.image_use["Understanding"].units == HELD_OUT
    scores = summary.benchmarks["generatedMaps"]
    assert {row[0].split(":")[0] for row in scores.table.rows} == {"pixel", "depth"}
    assert scores.metrics["pixel/psnr_n"] == scores.metrics["depth/absrel_n"] == HELD_OUT
    curves = read_curves(tmp_path / "pod-2" / "spool")
    assert curves["eval/generatedMaps/depth/absrel"] == {4: scores.metrics["depth/absrel"]}
    assert curves["eval/heldout/depth/after"] == {4: summary.held_out["Depth"].after}
    written = json.loads((tmp_path / "pod-2" / "results" / "summary.json").read_text())
    assert set(written["image_use"]) == set(summary.image_use)

    real, stop = evaluate.import_weights, SimpleNamespace(requested=False)

    def asked(module: Any, reader: Any) -> None:
        stop.requested = True
        real(module, reader)
        raise AssertionError("it read on")

    monkeypatch.setattr(evaluate, "import_weights", asked)
    with pytest.raises(Interrupted):
        run_stage(tmp_path, job, 3, monkeypatch, stop=stop, stage=evaluate.main)


@pytest.mark.timeout(120)
def test_initial_weights_are_scored_and_begin_a_run_of_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "toys"))
    job, _ = tiny_job(
        tmp_path,
        data=None,
        model__harmon__sampling={"textSteps": 2, "diffusionSteps": 2, "guidance": "1"},
        stages={"train": {"mode": "Never"}, "evaluate": {"benchmarks": [{"custom": {"name": "bright-and-dark"}}]}},
    )
    run_stage(tmp_path, job, 1, monkeypatch, stage=evaluate.main)
    summary = Summary.from_json((tmp_path / "run" / "results" / "summary.json").read_text())
    assert (summary.weights, summary.steps, summary.checkpoint, summary.held_out) == ("initial", 0, "", {})
    torch.manual_seed(key_digest(job.spec.training.seed, "initial-weights") % 2**63)
    assert summary.checkpoint_sha256 == weights_digest(find_family(*job.spec.model.family()).build())
    scores = summary.benchmarks["bright-and-dark"].metrics
    assert read_curves(tmp_path / "pod-1" / "spool")["eval/bright-and-dark/dark"] == {0: scores["dark"]}
    (tags,) = [one.tags for one in read_records(tmp_path / "pod-1" / "spool") if "mlflow.note.content" in one.tags]
    assert "evaluated as it is" in tags["mlflow.note.content"]


def test_scores_are_tied_to_what_their_benchmark_reads(tmp_path: Path) -> None:
    own = {"tsv": {"file": "s3://mine/own.tsv", "kind": "YesNo"}}
    job, _ = tiny_job(
        tmp_path, stages={"evaluate": {"files": "s3://published/files", "suite": "Quick", "benchmarks": [own]}}
    )
    results = Results(SimpleNamespace(job=job), None)
    assert [results._data_of(name) for name in ("tsv", "mmvp")] == ["s3://mine/own.tsv", "s3://published/files"]
