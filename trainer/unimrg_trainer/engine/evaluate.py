"""The evaluate stage on one rank: compares a checkpoint with the initial weights, and draws the pictures.

It is the newest one, or, where the job has an early stop, the one with the lowest held-out loss.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch.distributed as dist
from torch import nn

from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.progress import Progress
from unimrg_trainer.checkpoint.agreement import TorchAgreement, on_first_rank
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.discover import load_newest, newest_verified
from unimrg_trainer.checkpoint.tensors import CommitReader
from unimrg_trainer.data.mixture import Data
from unimrg_trainer.engine.choices import benchmark_places
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.measuring import (
    SharedWork,
    StoppableProgress,
    TrainedModel,
    cohorts_of,
    held_out_losses,
    held_out_rows,
)
from unimrg_trainer.engine.other_images import with_other_images
from unimrg_trainer.engine.reporting import open_spool
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.run_description import record_dataset
from unimrg_trainer.engine.setup import Setup, set_up, waiting
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.engine.strategies.base import import_weights
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, Item, Subject
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.held_out import HeldOutLoss, compare
from unimrg_trainer.evaluation.image_use import ImageUse, compare_images
from unimrg_trainer.evaluation.pictures import GridRow, curves_png, grid_png
from unimrg_trainer.evaluation.runner import Runner
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.local_folders import write_progress
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.objectives.registry import built_in, in_order
from unimrg_trainer.sections import SectionFile
from unimrg_trainer.tracking.segments import read_curves, read_records
from unimrg_trainer.tracking.spool import Spool

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("unimrg", "torch", "transformers", "numpy")
PREVIEW_IMAGES = 4
"""Rows of the grid for images of the split `preview`, which have no ground truth."""


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Evaluate as spec.stages.evaluate says; write results/ to the run's store and the scores to the spool.

    Raises UserError (exit code 66) if the job has no checkpoint, Interrupted (85) if a stop was requested.
    """
    benchmarks = {entry.key: find_benchmark(*entry.selected(), place) for entry, place in benchmark_places(job, env)}
    sections = SectionFile(env.run_dir, int(os.environ["RANK"]))
    setup = set_up(env, job, waiting(sections, stop))
    best = job.spec.training.early_stop is not None
    digest = job.training_digest(setup.data_digest)
    agreement = TorchAgreement(setup.gloo_group)
    newest, chosen = on_first_rank(
        agreement,
        "looking for a checkpoint",
        lambda: (newest_verified(setup.run_store), newest_verified(setup.run_store, best=best)),
    )
    if newest is None or chosen is None:
        raise UserError(
            f"there is no checkpoint to evaluate at {job.spec.checkpoint.uri}",
            remedy="train first",
            exit_code=ExitCode.INPUT_MISSING,
        )
    notice = None
    if best:
        why = (
            "the newest, for none was measured"
            if chosen.score is None
            else f"held-out loss {chosen.score:.4g}, the lowest"
        )
        notice = f"the checkpoint of step {chosen.step} is evaluated ({why})"
        logger.info("%s", notice)
    sections.enter("evaluate", newest.step)
    progress = StoppableProgress(stop, partial(_report_progress, setup, newest.step, notice), sections.tick)
    work = SharedWork(setup.rank, setup.world_size, progress.raise_if_stopped)
    held_out = setup.open_data("heldOut")

    module = build_initial(setup.family, job.spec.training.seed, setup.initial_weights, setup.parameter_dtype)
    module.to(setup.device).eval()
    rows = held_out_rows(setup, held_out)
    before = held_out_losses(setup, module, held_out, rows, work, progress, "held-out loss before training, batch")

    def restore(reader: CommitReader) -> None:
        reader.on_read = progress.go_on
        import_weights(module, reader)

    commit = load_newest(setup.run_store, agreement, restore, training_digest=digest, best=best)
    assert commit is not None, "without a commit that verifies it raises"
    after = held_out_losses(setup, module, held_out, rows, work, progress, "held-out loss after training, batch")
    other = other_image_losses(setup, module, held_out, rows, work, progress)
    runner = Runner(TrainedModel(setup.family, module), work, progress)
    maps = [objective.map for objective in setup.objectives if objective.map is not None]
    subject = Subject(held_out, maps, setup.family.prompt_style, setup.device.type)
    trained = {GenerateRequest if objective.map else AnswerRequest for objective in setup.objectives}
    scores = {
        name: runner.measure(benchmark, subject, trained, job.spec.training.seed)
        for name, benchmark in benchmarks.items()
    }
    grid = draw_samples(setup, held_out, runner)
    if setup.rank == 0:
        seed, clusters = job.spec.training.seed, clusters_of(setup, held_out, rows)
        write_results(
            setup,
            commit=commit,
            losses=compare(before, after, seed=seed, clusters=clusters),
            image_use={} if other is None else compare_images(after, other, seed=seed, clusters=clusters),
            benchmarks={name: result for name, result in scores.items() if result is not None},
            grid=grid,
        )
    dist.barrier(setup.gloo_group)


def other_image_losses(
    setup: Setup, module: nn.Module, held_out: Data, rows: int, work: SharedWork, progress: StoppableProgress
) -> dict[str, np.ndarray] | None:
    """Losses of the held-out rows when each is shown another image than its own; None if there is no other."""
    training = setup.job.spec.training
    measured = len(cohorts_of(rows, training.batch.cohort_rows)) * training.batch.cohort_rows
    reader = RowReader(held_out, seed=None, same_images=setup.same_images)
    objectives = with_other_images(setup.objectives, reader, measured, training.seed)
    if objectives is None:
        return None
    other = replace(setup, objectives=objectives)
    return held_out_losses(other, module, held_out, rows, work, progress, "held-out loss with other images, batch")


def clusters_of(setup: Setup, held_out: Data, rows: int) -> dict[str, list[str]]:
    """Label rows that are not independent: questions about one image, and images of a cohort (one mask rate)."""
    reader = RowReader(held_out, seed=None, same_images=setup.same_images)
    cohort_rows = setup.job.spec.training.batch.cohort_rows
    cohorts = [f"cohort {row // cohort_rows}" for row in range(rows)]
    return {
        objective.name: [reader(objective, row).key for row in range(rows)]
        if objective.source == "questions"
        else cohorts
        for objective in setup.objectives
    }


def draw_samples(setup: Setup, held_out: Data, runner: Runner) -> list[GridRow]:
    """Generate every map that the job trains, for held-out images and for previews; nothing for `sampleImages: 0`."""
    maps = [objective.map for objective in setup.objectives if objective.map is not None]
    prompts = [objective.inference_prompt() for objective in setup.objectives if objective.map is not None]
    count = min(setup.job.spec.stages.evaluate.sample_images, len(held_out.images))
    if count == 0 or not maps:
        return []
    samples = [(f"held-out {index}", held_out.image_sample(index)) for index in range(count)]
    if setup.has_split("preview"):
        previews = setup.open_data("preview")
        chosen = previews.images[:PREVIEW_IMAGES]
        samples += [(f"preview {index}", previews.image_sample(index)) for index in chosen]
    seed = setup.job.spec.training.seed
    items = [
        Item(label, GenerateRequest(prompt, seed, row, sample.image))
        for prompt in prompts
        for row, (label, sample) in enumerate(samples)
    ]
    images = [image for image in runner.ask(items, "samples") if isinstance(image, np.ndarray)]
    grid = []
    for row, (label, sample) in enumerate(samples):
        assert sample.image is not None, label
        generated = {map.name: images[index * len(samples) + row] for index, map in enumerate(maps)}
        truth = {map.name: map.target(sample, len(generated[map.name])) for map in maps if map.name in sample.maps}
        grid.append(GridRow(label, squash(sample.image, max(map(len, generated.values()))), generated, truth))
    return grid


def write_results(
    setup: Setup,
    *,
    commit: Commit,
    losses: dict[str, HeldOutLoss],
    image_use: dict[str, ImageUse],
    benchmarks: dict[str, BenchmarkResult],
    grid: list[GridRow],
) -> None:
    """Write summary, curves and picture to results/, and record the scores for the tracker."""
    job, env, step = setup.job, setup.env, commit.step
    folder = env.run_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    spool = open_spool(setup)
    curves = read_curves(spool.folder)
    attempts = {one.attempt: one.resume_step for one in read_records(spool.folder) if one.resume_step is not None}
    now = datetime.datetime.now(datetime.UTC)
    note = f"step {step}, seed {job.spec.training.seed}, {now.date().isoformat()}"
    maps = [objective.map for objective in setup.objectives if objective.map is not None]
    shown = f"{job.metadata.name}: {len(grid)} images, {note}"
    pictures = {"grid": ("grid.png", grid_png(grid, maps, note=shown))} if grid else {}
    if any(name.startswith("train/loss") for name in curves):
        resumes = [step for step in attempts.values() if step]
        rows = f"{job.spec.training.batch.rows_per_objective} rows of each objective per step, {note}"
        order = in_order({*built_in(), *setup.objective_weights})
        curves_file = curves_png(curves, objectives=order, title=job.metadata.name, note=rows, resumes=resumes)
        pictures["curves"] = ("curves.png", curves_file)
    summary = Summary(
        job=job.metadata.name,
        uid=env.uid,
        model=f"{setup.family.name} {setup.family.variant}",
        method=job.spec.method,
        steps=step,
        seconds=float(np.sum(list(curves.get("perf/step_s", {}).values()))),
        finished=now.isoformat(timespec="seconds"),
        processes=setup.world_size,
        attempts=max(1, len(attempts)),
        checkpoint=commit.key,
        data_digest=setup.data_digest,
        seeds=seeds_of(job),
        versions={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        held_out=losses,
        image_use=image_use,
        benchmarks=benchmarks,
        files={what: f"results/{name}" for what, (name, _) in pictures.items()},
    )
    contents = dict(pictures.values())
    contents[SUMMARY_KEY.removeprefix("results/")] = summary.to_json().encode()
    for name, content in contents.items():
        setup.run_store.put(f"results/{name}", content)
        (folder / name).write_bytes(content)
    record_results(setup, spool, summary, commit, folder)
    spool.close_segment()
    logger.info("results of step %d are in %s/results", step, setup.run_store.uri)


def record_results(setup: Setup, spool: Spool, summary: Summary, commit: Commit, folder: Path) -> None:
    """Record for MLflow: a few scores as metrics of the run and of the checkpoint's model, every number in tables and
    files, the grid as a picture of the step.

    `folder` has the files of the results.
    """
    name = record_dataset(setup, spool, "evaluation")
    spool.scores(commit.step, summary.curves(), commit.manifest_sha256, name, setup.data_digest)
    if "grid" in summary.files:
        spool.image(folder / "grid.png", "samples", summary.steps)
    for name in {*summary.files.values(), SUMMARY_KEY} - {"results/grid.png"}:
        spool.artifact(folder / Path(name).name, "results")
    tables = []
    for name, table in summary.tables().items():
        file = folder / "tables" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"columns": table.columns, "data": table.rows}))  # as MLflow's log_table does
        spool.artifact(file, "tables")
        tables.append({"path": f"tables/{name}.json", "type": "table"})
    spool.tags({"mlflow.loggedArtifacts": json.dumps(tables)})


def seeds_of(job: UniMRGJob) -> dict[str, int]:
    """Seeds by purpose: the training, and each data source that has one."""
    sources = [source.selected() for source in job.spec.data.sources or ()]
    return {"training": job.spec.training.seed} | {
        name: settings["seed"] for name, settings in sources if isinstance(settings.get("seed"), int)
    }


def _report_progress(setup: Setup, checkpoint_step: int, notice: str | None, label: str, done: int, total: int) -> None:
    if setup.rank != 0:
        return
    message = f"{label} {min(done + 1, total)} of {total}"
    progress = Progress(
        stage="evaluate", step=done, total_steps=total, message=message, checkpoint_step=checkpoint_step, notice=notice
    )
    write_progress(setup.env.run_dir, progress)
    logger.info("%s", message)
