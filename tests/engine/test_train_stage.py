"""The whole train stage, from a job's file to its commits, against the published recipe written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import assert_same
from tests.support.faulty_stores import raising
from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.one_step import TINY, freeze
from tests.support.published_recipe import Recipe, assert_trained_alike, rate_by_hand, train_by_hand
from tests.support.train_stage import ASKED_TO_STOP, newest, run_stage
from unimrg_api.errors import Interrupted
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.rows import BatchShape
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.storage.base import StorageError
from unimrg_trainer.tracking.segments import read_curves

OBJECTIVES = {"Understanding": 1.0, "Pixel": 0.5, "Depth": 2.0, "Segmentation": 1.0}
OTHER_NUMBERS = {"beta1": "0.8", "beta2": "0.9", "epsilon": "1e-6", "weightDecay": "0.1", "clipNorm": "500"}
OTHER_RECIPE = Recipe(beta1=0.8, beta2=0.9, epsilon=1e-6, decay=0.1, clip_norm=500.0)
SEED = 12


def recorded(curves: list[dict[str, dict[int, float]]], name: str) -> list[float]:
    """A metric's values by step over all attempts."""
    points = {step: value for curve in curves for step, value in curve[name].items()}
    return [points[step] for step in sorted(points)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("numbers", "recipe", "clipped"),
    [({}, Recipe(), True), (OTHER_NUMBERS, OTHER_RECIPE, False)],
    ids=["the published numbers", "other numbers, nothing clipped"],
)
def test_a_job_interrupted_and_resumed_follows_the_recipe_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, str], recipe: Recipe, clipped: bool
) -> None:
    """Three steps in two attempts: the first is asked to stop at once, which takes effect after its second step."""
    job, _ = tiny_job(
        tmp_path,
        model__harmon__dropout="0",
        objectives=[{"name": name, "weight": str(weight)} for name, weight in OBJECTIVES.items()],
        training__optimizer={"learningRate": "1e-3", **numbers},
        training__schedule={"warmupSteps": 2, "totalSteps": 6},
        training__stopStep=3,
        training__precision="FP64",
        training__seed=SEED,
    )
    prepare_data(job, tmp_path)
    dataset = Dataset.open(LocalStore(tmp_path / "data"), "train")
    digest = job.training_digest(dataset.digest)

    with pytest.raises(Interrupted):
        run_stage(tmp_path, job, 1, monkeypatch, stop=ASKED_TO_STOP)
    assert newest(tmp_path / "run", digest).step == 2
    run_stage(tmp_path, job, 2, monkeypatch)
    state = newest(tmp_path / "run", digest)
    assert state.step == 3

    family = find_family("harmon", TINY)
    module = build_initial(family, SEED, None, torch.float64)
    objectives = [objective(name) for name in OBJECTIVES]
    freeze(module, family.frozen(objectives))
    planner = StepPlanner(
        family=family,
        objectives=objectives,
        objective_weights=OBJECTIVES,
        reader=RowReader(dataset, SEED),
        shape=BatchShape(rows=4, cohort_rows=2),
        micro_batch_rows=2,
        seed=SEED,
    )
    rates = [rate_by_hand(1e-3, 2, 6, step) for step in range(3)]
    expected = train_by_hand(family, module, [planner.plan_step(step, 0, 1) for step in range(3)], rates, recipe)
    assert all((norm > recipe.clip_norm) == clipped for norm in expected.norms)
    assert_trained_alike(state.tensors, expected)
    curves = [read_curves(tmp_path / f"pod-{attempt}" / "spool") for attempt in (1, 2)]
    assert recorded(curves, "optim/lr") == pytest.approx(rates, rel=1e-12)
    # the norm that is reported is the one before clipping
    assert recorded(curves, "train/grad_norm") == pytest.approx(expected.norms, rel=1e-10)
    shown = read_progress(tmp_path / "pod-2")
    weighted = [weight * shown.losses[name.lower()] for name, weight in OBJECTIVES.items()]
    assert (shown.step, shown.checkpoint_step, shown.loss) == (3, 3, pytest.approx(sum(weighted) / len(weighted)))

    # an attempt that finds its work done changes nothing, and leaves its last records to the launcher
    refuse = raising(lambda: StorageError("away"), "spool/")
    monkeypatch.setattr(LocalStore, "put", lambda store, key, *_, **__: refuse("put", key))
    run_stage(tmp_path, job, 3, monkeypatch)
    assert_same(newest(tmp_path / "run", digest), state)
