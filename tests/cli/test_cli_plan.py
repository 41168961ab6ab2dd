"""`unimrg plan`: what a job needs, as tables and as JSON, at once and without heavy imports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Unimrg
from tests.support.good_jobs import GOOD_JOB

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "examples/recipes/unimrg-harmon.yaml"


def test_the_published_recipe_needs_what_was_computed_by_hand(unimrg: Unimrg) -> None:
    """128 groups of four rows a step: 17.3 TFLOP forward each where packed, besides four images through KL-16."""
    plan = json.loads(unimrg("plan", RECIPE, "--output", "json").out)
    assert plan["parameters"] == 2_494_774_048
    assert len({group["name"] for group in plan["groups"]}) == len(plan["groups"])
    needed, computed = (plan["operations"]["packed"][kind] for kind in ("needed", "computed"))
    assert needed["forward"] == pytest.approx(128 * 17.3e12, rel=0.01)
    assert needed["frozen"] == pytest.approx(128 * 4 * 0.556e12, rel=0.01)
    assert plan["checkpoints"]["commit"] == pytest.approx(12 * 2.4935e9, rel=0.001)
    assert plan["checkpoints"]["copyBytes"] == pytest.approx(plan["checkpoints"]["commit"] / 8)
    seconds = ((needed["useful"] - needed["frozen"]) / 148e12 + needed["frozen"] / 44e12) / (8 * 0.4)
    repeated = (computed["total"] - needed["useful"]) / 148e12 / (8 * 0.4)
    assert plan["times"]["H20"]["hfu"] == pytest.approx(0.4 * (1 + repeated / seconds))
    assert plan["times"]["H20"]["encoders"] == pytest.approx(needed["frozen"] / 44e12 / (8 * 0.4) / seconds)
    assert plan["times"]["H20"]["stepSeconds"] == pytest.approx(seconds)
    assert plan["times"]["H20"]["hours"] == pytest.approx(seconds * 1000 / 3600)
    assert plan["memory"]["DDP"]["moments"] == pytest.approx(8 * 2.4935e9, rel=0.001)


def test_every_example_is_planned_with_licence_and_assumptions(unimrg: Unimrg) -> None:
    for example in sorted((REPOSITORY / "examples").rglob("*.yaml")):
        if "kind: UniMRGJob" not in example.read_text():
            continue
        ended = unimrg("plan", example)
        if example.name == "evaluate_only.yaml":
            ended.refused(64, "a plan is about training, and this job does not train")
            continue
        assert ended.code == 0, ended.err
        assert "Memory of a process" in ended.out and "Assumed; all else is arithmetic" in ended.out
        assert ("non-commercial" in ended.out) == (
            example.parent.name in ("recipes", "own_data") and "showo" not in example.name
        )


def test_what_does_not_fit_is_a_warning_with_a_way_out(unimrg: Unimrg, tmp_path: Path) -> None:
    big = tmp_path / "job.yaml"
    big.write_text(RECIPE.read_text().replace("microBatchRows: 2", "microBatchRows: 16"))
    ended = unimrg("plan", big, "--device", "A100-40GB")
    assert ended.code == 0
    assert "does not fit: a process needs" in ended.out and "a smaller training.batch.microBatchRows" in ended.out
    times = json.loads(unimrg("plan", big, "-o", "json").out)["times"]
    assert (times["A100-40GB"]["fits"], times["B200"]["fits"]) == (False, True)
    tight = unimrg("plan", RECIPE, "--device", "A100-40GB").out
    assert "tight, 2 GB left" in tight, "34.6 GB of 92 % of 40"
    assert next(line for line in tight.splitlines() if line.startswith("B200")).endswith("yes")
    roomy = json.loads(unimrg("plan", RECIPE, "--device", "H200", "-o", "json").out)
    assert ["training.recompute: Nothing fits too" in line for line in roomy["warnings"]][-1]


def test_more_than_the_peak_is_a_warning_and_devices_have_no_case(unimrg: Unimrg) -> None:
    plan = json.loads(unimrg("plan", RECIPE, "--device", "h20", "--mfu", 1, "-o", "json").out)
    assert plan["device"] == "H20" and plan["warnings"][0].startswith("no device can do this")


def test_frozen_encoders_that_take_long_are_a_warning(unimrg: Unimrg, tmp_path: Path) -> None:
    """In FP32: 13 % of the recipe's time on an H20, 41 % on an A100, and no way around a vision tower."""
    for device, noted in (("H20", 0), ("A100", 1)):
        plan = json.loads(unimrg("plan", RECIPE, "--device", device, "-o", "json").out)
        found = [line for line in plan["warnings"] if line.startswith("frozen encoders take 41%")]
        assert len(found) == noted and all("imageEncoding: Prepared" in line for line in found)
    towers = json.loads(unimrg("plan", RECIPE.with_name("sft-openuni.yaml"), "-o", "json").out)["warnings"]
    assert any("frozen encoders" in line and "a vision tower runs in every step" in line for line in towers)


def test_what_a_job_freezes_has_no_gradients_and_no_moments(unimrg: Unimrg, tmp_path: Path) -> None:
    """Harmon's language model, and then its encoder as well: nothing passes a gradient on to the encoder's tokens."""
    plans = [json.loads(unimrg("plan", RECIPE, "-o", "json").out)]
    for names in (["LanguageModel"], ["LanguageModel", "Encoder"]):
        parts = ", ".join(f'{{name: {name}, learningRateScale: "0"}}' for name in names)
        file = tmp_path / "job.yaml"
        file.write_text(RECIPE.read_text().replace("  training:\n", f"  training:\n    parts: [{parts}]\n"))
        plans.append(json.loads(unimrg("plan", file, "-o", "json").out))
    whole, language, both = plans
    assert whole["trained"] - language["trained"] == 1_543_714_304
    assert language["memory"]["DDP"]["gradients"] == 4 * language["trained"]
    assert language["trained"] - both["trained"] == 393_986_560
    backward = [plan["operations"]["packed"]["needed"]["backward"] for plan in plans]
    assert backward[0] > 1.2 * backward[1] > 1.2 * backward[2]


def test_a_job_that_training_refuses_has_no_hours(unimrg: Unimrg, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(RECIPE.read_text().replace("rowsPerObjective: 128", "rowsPerObjective: 96"))
    ended = unimrg("plan", job)
    assert ended.code == 64 and ended.out.splitlines()[1].startswith("Refused") and "FITS" not in ended.out
    ended = unimrg("plan", job, "-o", "json")
    plan = json.loads(ended.out)
    assert ended.code == 64 and plan["times"] == {} and plan["warnings"] == []
    (reason,) = plan["refused"]
    assert "6 cohorts of an objective cannot be dealt evenly to 8 processes" in reason
    assert reason.endswith("or use 6 processes (spec.trainer)")


def test_a_published_size_without_first_weights_begins_at_random(unimrg: Unimrg, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("".join(line for line in RECIPE.read_text().splitlines(True) if "init:" not in line))
    plan = json.loads(unimrg("plan", job, "-o", "json").out)
    assert plan["licence"] is None and "begins with random weights" in plan["warnings"][0]


def test_wrong_jobs_and_unknown_devices_are_refused(unimrg: Unimrg, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(GOOD_JOB.replace("nodes: 1", "nodes: 0"))
    unimrg("plan", job).refused(64, "spec.trainer.nodes: must be a whole number from 1 to 64")
    unimrg("plan", RECIPE, "--device", "TPU").refused(64, "TPU are not known", "name one of H20, A100")
