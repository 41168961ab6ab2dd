"""The evaluate stage on one rank: measures the newest commit against the first weights, and draws the pictures."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import time

import numpy as np
import torch
import torch.distributed as dist

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.progress import Progress as ProgressRecord
from unimrg_trainer.checkpoint.agreement import TorchAgreement
from unimrg_trainer.checkpoint.discover import load_newest
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.publication import find_publication
from unimrg_trainer.engine.canonical_state import import_weights
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.measuring import Progress, answers, generated, held_out_losses
from unimrg_trainer.engine.reporting import open_spool
from unimrg_trainer.engine.setup import Setup, set_up
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.engine.strategy import DTYPES
from unimrg_trainer.evaluation.curves import curves_png
from unimrg_trainer.evaluation.grid import Sample, grid_png
from unimrg_trainer.evaluation.held_out import HeldOutLoss, compare
from unimrg_trainer.evaluation.spatial import Answered, SpatialScores, score
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.files import write_atomically
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.tracking.read import read_attempts, read_curves

logger = logging.getLogger(__name__)

VERSIONED = ("unimrg", "torch", "transformers", "numpy")
PHOTOGRAPHS = 4
"""Photographs in the picture at the end; they have no truth beside them."""


def main(env: PodEnvironment, job: UniMRGJob, stop: StopFlag) -> None:
    """Evaluate as spec.stages.evaluate says; write results/ beside the checkpoints and the scores to the spool.

    Raises UserError (exit code 66) if the job has no commit, Interrupted (85) if a stop was asked for.
    """
    setup = set_up(env, job)
    wanted = job.spec.stages.evaluate
    host_group = dist.new_group(backend="gloo")
    assert host_group is not None
    digest = job.training_digest(setup.data_digest)
    loaded = load_newest(setup.run, TorchAgreement(host_group), config_digest=digest)
    if loaded is None:
        raise UserError(
            f"there is no commit to evaluate at {job.spec.checkpoint.uri}",
            remedy="train first",
            exit_code=ExitCode.INPUT_MISSING,
        )
    commit, state = loaded
    progress = Progress(stop, lambda what, done, total: _show(setup, state.step, what, done, total))
    held_out = Dataset.open(setup.data, "heldOut", setup.data_digest)
    dtype = DTYPES[job.spec.training.precision]

    module = build_initial(setup.family, job.spec.training.seed, setup.published, dtype).to(setup.device)
    rows = held_out_rows(setup, held_out)
    before = held_out_losses(setup, module, held_out, rows, progress, "held-out loss before")
    import_weights(module, state)
    after = held_out_losses(setup, module, held_out, rows, progress, "held-out loss after")
    replies: list[Answered] = []
    spatial = next((entry.spatial for entry in wanted.benchmarks if entry.spatial is not None), None)
    if spatial is not None and "Understanding" in setup.weights:
        replies = answers(setup, module, held_out, min(spatial.questions, len(held_out.questions)), progress)
    samples = draw_samples(setup, module, held_out, progress)
    if setup.rank == 0:
        write_results(
            setup,
            commit_key=commit.key,
            step=state.step,
            losses=compare(before, after, seed=job.spec.training.seed, clusters=clusters_of(setup, held_out, rows)),
            spatial=score(replies, seed=job.spec.training.seed) if replies else None,
            samples=samples,
        )
    dist.barrier(host_group)


def held_out_rows(setup: Setup, held_out: Dataset) -> int:
    """How many rows are measured: as many as wanted, at most as many as there are, for a copy tells nothing new."""
    wanted = setup.job.spec.stages.evaluate.held_out_rows
    sizes = {"questions": len(held_out.questions), "images": len(held_out.images)}
    available = min(sizes[objective.source] for objective in setup.objectives)
    if available < wanted and setup.rank == 0:
        logger.warning("stages.evaluate.heldOutRows is %d, the data has %d: these are measured", wanted, available)
    return min(wanted, available)


def clusters_of(setup: Setup, held_out: Dataset, rows: int) -> dict[str, list[str]]:
    """Label rows that are not independent: questions about one image, and images of a cohort (one mask rate)."""
    cohort_rows = setup.job.spec.training.batch.cohort_rows
    cohorts = [f"cohort {row // cohort_rows}" for row in range(rows)]
    return {
        objective.name: [held_out.question_sample(row, maps=(), image=False).key for row in range(rows)]
        if objective.source == "questions"
        else cohorts
        for objective in setup.objectives
    }


def draw_samples(setup: Setup, module: torch.nn.Module, held_out: Dataset, progress: Progress) -> list[Sample]:
    """Generate every trained representation for held-out scenes and for photographs; nothing for `sampleImages: 0`."""
    scenes = min(setup.job.spec.stages.evaluate.sample_images, len(held_out.images))
    if scenes == 0:
        return []
    shown = [held_out.image_sample(index) for index in range(scenes)]
    labels = [f"scene {index}" for index in range(scenes)]
    if "preview" in find_publication(setup.data, setup.data_digest).manifests:
        photographs = Dataset.open(setup.data, "preview", setup.data_digest)
        chosen = range(min(PHOTOGRAPHS, len(photographs.images)))
        shown += [photographs.image_sample(index) for index in chosen]
        labels += [f"photo {index}" for index in chosen]
    images = [sample.image for sample in shown if sample.image is not None]
    results = generated(setup, module, images, progress)
    maps = {objective.map.name: objective.map for objective in setup.objectives if objective.map}
    samples = []
    for index, (label, sample) in enumerate(zip(labels, shown, strict=True)):
        made = {name: pictures[index] for name, pictures in results.items()}
        size = max((len(image) for image in made.values()), default=len(images[index]))
        truth = {name: maps[name].target(sample, len(made[name])) for name in made if name in sample.maps}
        samples.append(Sample(label, squash(images[index], size), made, truth))
    return samples


def write_results(
    setup: Setup,
    *,
    commit_key: str,
    step: int,
    losses: dict[str, HeldOutLoss],
    spatial: SpatialScores | None,
    samples: list[Sample],
) -> None:
    """Write summary, curves and picture to results/, and record the scores for the tracker."""
    job, env = setup.job, setup.env
    folder = env.run_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    spool = open_spool(setup)
    curves = read_curves(spool.folder)
    attempts = read_attempts(spool.folder)
    now = datetime.datetime.now(datetime.UTC)
    note = f"step {step}, seed {job.spec.training.seed}, {now.date().isoformat()}"
    scenes = sum(bool(sample.truth) for sample in samples)
    shown = f"{job.metadata.name}: {scenes} held-out scenes, {len(samples) - scenes} photographs, {note}"
    pictures = {"grid": ("grid.png", grid_png(samples, note=shown))} if samples else {}
    if any(name.startswith("train/loss") for name in curves):
        resumes = [attempt.resume_step for attempt in attempts if attempt.resume_step]
        rows = f"{job.spec.training.batch.rows_per_objective} rows of each objective per step, {note}"
        history = {name: list(points.items()) for name, points in curves.items()}
        pictures["curves"] = ("curves.png", curves_png(history, title=job.metadata.name, note=rows, resumes=resumes))
    summary = Summary(
        job=job.metadata.name,
        uid=env.uid,
        model=f"{setup.family.name} {setup.family.variant}",
        method=job.spec.method,
        steps=step,
        seconds=float(np.sum(list(curves.get("perf/step_s", {}).values()))),
        finished=now.isoformat(timespec="seconds"),
        processes=setup.world_size,
        attempts=max(1, len({attempt.attempt for attempt in attempts})),
        checkpoint=commit_key,
        data_digest=setup.data_digest,
        seeds=seeds_of(job),
        versions={name: importlib.metadata.version(name) for name in VERSIONED},
        held_out=losses,
        spatial=spatial,
        files={what: f"results/{name}" for what, (name, _) in pictures.items()},
    )
    contents = dict(pictures.values())
    contents["summary.json"] = summary.to_json().encode()
    for name, content in contents.items():
        setup.run.put(f"results/{name}", content)
        (folder / name).write_bytes(content)
        spool.artifact(folder / name, "results")
    spool.step(step, summary.metrics())
    spool.end("evaluated")
    spool.close_segment()
    logger.info("results of step %d are in %s/results", step, setup.run.uri)


def seeds_of(job: UniMRGJob) -> dict[str, int]:
    """What a seed is for → seed."""
    scenes = [source.scenes.seed for source in job.spec.data.sources or () if source.scenes is not None]
    return {"training": job.spec.training.seed, **({"scenes": scenes[0]} if scenes else {})}


def _show(setup: Setup, step: int, what: str, done: int, total: int) -> None:
    if setup.rank != 0:
        return
    record = ProgressRecord(
        stage="evaluate",
        step=done,
        total_steps=total,
        message=what,
        checkpoint_step=step,
        updated=time.time(),
    )
    write_atomically(setup.env.run_dir / "progress.json", record.to_json())
    logger.info("%s: %d/%d", what, done, total)
