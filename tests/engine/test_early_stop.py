"""Training ends where the held-out loss does not fall any more, however often it was interrupted on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.checkpoints import checkpointer, small_state
from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.train_stage import run_stage
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.spec_training import EarlyStopSpec
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import newest_verified
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.early_stop import EarlyStopRule, ended_early
from unimrg_trainer.engine import early_stop
from unimrg_trainer.engine.evaluate import main as evaluate
from unimrg_trainer.evaluation.benchmarks.spatial import Spatial
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.launch import outcomes
from unimrg_trainer.launch.reports import read_progress
from unimrg_trainer.storage import LocalStore
from unimrg_trainer.tracking.segments import read_curves, read_records

SETTINGS = EarlyStopSpec(every_steps=10, patience=2)


def commit(step: int, score: float | None, misses: int = 0) -> Commit:
    return Commit(step, 0, 1, "manifest", "0" * 64, score, misses)


@pytest.mark.parametrize(
    ("scores", "last"),
    [
        ({10: 3.0, 20: 2.0, 30: 2.5, 40: 2.1}, 40),
        ({10: 3.0, 20: 3.1, 30: 2.0, 40: 2.5, 50: 1.0, 60: 1.0, 70: 2.0, 80: 2.0}, 80),
        ({10: 1.0, 20: math.nan, 30: math.inf}, 30),
        ({10: math.nan, 20: math.nan}, 20),
        ({10: 3.0, 20: 2.0, 30: 1.0, 40: 0.5}, None),
    ],
)
def test_training_ends_after_patience_and_the_checkpoints_alone_say_the_same(
    scores: dict[int, float], last: int | None
) -> None:
    rule = EarlyStopRule(SETTINGS, [], 0)
    kept: list[Commit] = []
    for step, score in scores.items():
        rule.add(step, score)
        assert not rule.is_over(step + 5)
        assert rule.is_over(step) == (step == last)
        # of the past, only the best and the newest may be left
        kept.append(commit(step, score if math.isfinite(score) else None, rule.misses))
        kept = [one for one in kept if one.step in (rule.best_step, step)]
        resumed = EarlyStopRule(SETTINGS, [*kept, commit(step + 1, 0.0)], step)
        assert (resumed.best_step, resumed.is_over(step)) == (rule.best_step, rule.is_over(step))


def test_a_training_that_was_never_measured_has_not_ended() -> None:
    assert not EarlyStopRule(SETTINGS, [commit(20, None), commit(40, None)], 40).is_over(40)


def test_a_measurement_that_was_abandoned_does_not_count() -> None:
    """Of step 20, at whose checkpoint the training was interrupted."""
    rule = EarlyStopRule(SETTINGS, [commit(10, 1.0), commit(20, None)], 20)
    rule.add(30, 1.5)
    assert not rule.is_over(30)
    rule.add(40, 1.5)
    assert rule.is_over(40)


@pytest.mark.parametrize(("reason", "ended"), [("interruption", False), ("final", True)])
def test_an_interruption_before_a_measurement_is_no_end(tmp_path: Path, reason: str, ended: bool) -> None:
    store = LocalStore(tmp_path / "run")
    keeper = checkpointer(store, keep_last=9)
    last = (30, 1.2, 2, reason) if ended else (30, None, 1, reason)
    for step, score, misses, why in ((10, 1.0, 0, "periodic"), (20, 1.1, 1, "periodic"), last):
        keeper.begin(small_state(step), why, score=score, misses=misses)
        keeper.settle()
    assert ended_early(store, SETTINGS, 30) == ended


def test_the_best_checkpoint_that_verifies_is_the_one_to_evaluate(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    keeper = checkpointer(store, keep_last=9)
    for step, score in ((10, 2.0), (20, 1.0), (30, 1.0), (40, None), (50, 3.0)):
        keeper.save(small_state(step), "periodic", score=score)

    def chosen() -> int | None:
        found = newest_verified(store, best=True)
        assert outcomes.checkpoint_step(store, best=True) == (found.step if found else 0)
        return found.step if found else None

    order = [chosen()]
    for _ in range(4):
        (shard,) = (key for key, _ in store.list(f"ckpt/step-{order[-1]:08d}/") if "rank-0" in key)
        store.delete(shard)
        order.append(chosen())
    assert order == [30, 20, 10, 50, 40]


@pytest.mark.timeout(120)
def test_a_stop_request_during_a_measurement_is_obeyed_at_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is committed without a score, and the training that goes on measures at the next time."""
    job, _ = tiny_job(
        tmp_path,
        method="SFT",
        training__earlyStop={"everySteps": 2, "patience": 9},
        training__stopStep=4,
        checkpoint__everySteps=2,
        data__sources=[{"scenes": {"train": 4, "heldOut": 8, "imageSize": 32, "seed": 1}}],
        stages__evaluate={"heldOutRows": 8, "mode": "Never"},
    )
    prepare_data(job, tmp_path)
    stop, real, batches = SimpleNamespace(requested=False), early_stop.held_out_loss, []

    def asked(setup: Any, row_sums: Any, *arguments: Any) -> dict[str, float]:
        def counted(batch: Any) -> Any:
            stop.requested = not batches or stop.requested
            batches.append(batch)
            return row_sums(batch)

        return real(setup, counted, *arguments)

    monkeypatch.setattr(early_stop, "held_out_loss", asked)
    with pytest.raises(Interrupted):
        run_stage(tmp_path, job, 1, monkeypatch, stop=stop)
    store = LocalStore(tmp_path / "run")
    (commit,) = list_commits(store)
    assert (commit.step, commit.score, read_manifest(store, commit).reason) == (2, None, "interruption")
    assert len(batches) == 2, "of four, one after that in which it was asked"
    monkeypatch.setattr(early_stop, "held_out_loss", real)
    run_stage(tmp_path, job, 2, monkeypatch)
    assert [(one.step, one.score is None) for one in list_commits(store)] == [(4, False), (2, True)]


@pytest.mark.timeout(240)
def test_a_job_ends_early_with_the_losses_that_the_evaluation_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate so low that nothing is learnt, and with what is added to each measurement by hand."""
    evaluation = {"heldOutRows": 2, "benchmarks": [], "sampleImages": 0}
    settings: dict[str, Any] = {
        "method": "SFT",
        "training__optimizer": {"learningRate": "1e-12"},
        "training__earlyStop": {"everySteps": 2, "patience": 1},
        "training__precision": "FP64",
        "checkpoint__everySteps": 2,
    }
    job, _ = tiny_job(tmp_path, **settings, stages__evaluate=evaluation)
    prepare_data(job, tmp_path)
    store = LocalStore(tmp_path / "run")
    real, added = early_stop.held_out_loss, iter([1.0, 0.0, 0.5])

    def raised(*arguments: Any) -> dict[str, float]:
        return {name: loss + next(added) for name, loss in real(*arguments).items()}

    monkeypatch.setattr(early_stop, "held_out_loss", raised)
    run_stage(tmp_path, job, 1, monkeypatch)
    scores = {one.step: one.score for one in list_commits(store)}
    assert list(scores) == [6, 4, 2]
    run_stage(tmp_path, job, 2, monkeypatch)  # finds nothing to train
    assert [one.step for one in list_commits(store)] == [6, 4, 2]
    only_trained, _ = tiny_job(tmp_path, **settings, stages__evaluate={"mode": "Never"})
    assert outcomes.is_complete(store, only_trained)
    without = {name: value for name, value in settings.items() if "earlyStop" not in name}
    assert not outcomes.is_complete(store, tiny_job(tmp_path, **without, stages__evaluate={"mode": "Never"})[0])

    run_stage(tmp_path, job, 3, monkeypatch, stage=evaluate)
    measured = read_curves(tmp_path / "pod-3" / "spool")["eval/heldout/understanding/after"][4]  # of the best
    assert [scores[step] for step in (2, 4, 6)] == pytest.approx([measured + 1.0, measured, measured + 0.5], rel=1e-9)
    assert "step 4 is evaluated (held-out loss" in (read_progress(tmp_path / "pod-3").notice or "")
    assert not outcomes.is_complete(store, job)
    found = outcomes.summary(store)
    assert found is not None
    outcomes.record_evaluation(store, job, found)
    assert outcomes.is_complete(store, job)
    during = read_curves(tmp_path / "pod-1" / "spool")["heldout/loss"]
    assert during == {step: pytest.approx(score) for step, score in scores.items()}


@pytest.mark.timeout(240)
def test_a_benchmark_selects_and_every_kept_checkpoint_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking it in the middle changes nothing about the training, which has dropout."""
    evaluation = {"heldOutRows": 2, "benchmarks": [{"spatial": {"questions": 8}}], "checkpoints": "Kept"}
    settings: dict[str, Any] = {
        "model__harmon__dropout": "0.3",
        "training__optimizer": {"learningRate": "1e-2"},
        "training__stopStep": 4,
        "checkpoint__everySteps": 2,
        "stages__evaluate": evaluation | {"sampleImages": 0},
    }
    selecting = {"everySteps": 2, "patience": 9, "benchmark": {"name": "spatial", "metric": "acc"}}
    folders, losses = [tmp_path / name for name in ("with", "without")], []
    for folder, early in zip(folders, (selecting, None), strict=True):
        folder.mkdir()
        job, _ = tiny_job(folder, **settings, **({} if early is None else {"training__earlyStop": early}))
        prepare_data(job, folder)
        run_stage(folder, job, 1, monkeypatch)
        losses.append(read_curves(folder / "pod-1" / "spool")["train/loss"])
    assert losses[0] == losses[1]
    job, _ = tiny_job(folders[0], **settings, training__earlyStop=selecting)
    run_stage(folders[0], job, 2, monkeypatch, stage=evaluate)
    results = folders[0] / "run" / "results"
    commits = list_commits(LocalStore(folders[0] / "run"))
    best = min(commits, key=lambda one: (one.score, -one.step))
    accuracies = {}
    for commit in commits:
        place = results if commit.step == best.step else results / f"step-{commit.step}"
        found = Summary.from_json((place / "summary.json").read_text())
        assert (found.steps, found.checkpoint_sha256) == (commit.step, commit.manifest_sha256)
        accuracies[commit.step] = found.benchmarks["spatial"].metrics["acc"]
        assert len((place / "items" / "spatial.jsonl").read_text().splitlines()) == 8
    assert accuracies == {one.step: pytest.approx(-(one.score or 0.0)) for one in commits} and len(accuracies) == 2
    assert f"(spatial acc {accuracies[best.step]:.4g}, the highest)" in (
        read_progress(folders[0] / "pod-2").notice or ""
    )
    scores = [record for record in read_records(folders[0] / "pod-2" / "spool") if record.model]
    assert {record.model for record in scores} == {one.manifest_sha256 for one in commits}

    wrong = selecting | {"benchmark": {"name": "spatial", "metric": "f1"}}
    settings["checkpoint__uri"] = "file://another"
    with pytest.raises(UserError, match="spatial has no metric 'f1'"):
        run_stage(folders[1], tiny_job(folders[1], **settings, training__earlyStop=wrong)[0], 3, monkeypatch)
    real = Spatial.score
    monkeypatch.setattr(Spatial, "score", lambda *asked: replace(real(*asked), lower_is_better=("acc",)))
    settings["checkpoint__uri"] = "file://a-third"
    with pytest.raises(UserError, match="of spatial acc less is better"):
        run_stage(folders[1], tiny_job(folders[1], **settings, training__earlyStop=selecting)[0], 4, monkeypatch)
