"""Writes what an evaluation found: to the disk first, then to the run's store, and into the tracker's spool."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.job import UniMRGJob
from unimrg_api.redaction import redact_values
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.engine.run_description import record_dataset
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult
from unimrg_trainer.evaluation.blocks import StoredBlocks, remove_others
from unimrg_trainer.evaluation.held_out import HeldOutLoss
from unimrg_trainer.evaluation.image_use import ImageUse
from unimrg_trainer.evaluation.pictures import GridRow, curves_png, grid_png
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.files import write_atomically
from unimrg_trainer.objectives.registry import built_in, in_order
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.tracking.segments import read_curves, read_records
from unimrg_trainer.tracking.spool import Spool

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("unimrg", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Evaluated:
    """What was found about one set of weights."""

    commit: Commit | None
    """None: the initial weights."""
    weights: str
    """Their SHA-256, of a checkpoint that of its manifest."""
    benchmarks: dict[str, BenchmarkResult]
    left_out: dict[str, str]
    """Benchmarks that were not asked, and why."""
    losses: dict[str, HeldOutLoss] = field(default_factory=dict)
    image_use: dict[str, ImageUse] = field(default_factory=dict)
    grid: list[GridRow] = field(default_factory=list)


@dataclass(frozen=True)
class BenchmarkFiles:
    """Where a benchmark's own files go: below a folder of the run's store."""

    store: ObjectStore
    folder: str

    def write(self, path: str, content: bytes) -> None:
        """Keep `content` as FOLDER/`path`."""
        self.store.put(f"{self.folder}/{path}", content)


class Results:
    """The results of a run; writes nothing on other ranks than 0."""

    def __init__(self, setup: Setup, spool: Spool | None) -> None:
        """`spool` is rank 0's, None on others."""
        self._setup = setup
        self._spool = spool
        self._weights: set[str] = set()

    def blocks(self, weights: str) -> StoredBlocks:
        """Return the finished blocks of weights of this digest, on every rank."""
        self._weights.add(weights)
        return StoredBlocks(self._setup.run_store, weights)

    def files(self, folder: str) -> BenchmarkFiles:
        """Return what takes the files of a benchmark, on every rank."""
        return BenchmarkFiles(self._setup.run_store, folder)

    def write(self, found: Evaluated, folder: str = "results") -> None:
        """Write the summary, every item and what else benchmarks made to `folder`; record scores for the tracker.

        What goes wrong with the store is raised once everything is on the disk and in the spool.
        """
        if self._spool is None:
            return
        pictures = self._pictures(found) if folder == "results" else {}
        summary = self._summary(found, {what: f"{folder}/{name}" for what, (name, _) in pictures.items()})
        contents = {f"{folder}/{name}": content for name, content in pictures.values()}
        for name, result in found.benchmarks.items():
            if result.items:
                lines = (json.dumps(asdict(item)) for item in result.items)
                contents[f"{folder}/items/{name}.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
            contents |= {f"{folder}/{name}/{path}": content for path, content in result.files.items()}
        contents[f"{folder}/{Path(SUMMARY_KEY).name}"] = summary.to_json().encode()  # the last: then all is there
        for key, content in contents.items():
            write_atomically(self._setup.env.run_dir / key, content)
        self._record(self._spool, found, summary, list(contents))
        for key, content in contents.items():
            self._setup.run_store.put(key, content)
        logger.info("results of step %d are in %s/%s", summary.steps, self._setup.run_store.uri, folder)

    def close(self) -> None:
        """Close the spool's segment, and remove the blocks of weights that were not evaluated."""
        if self._spool is not None:
            self._spool.close_segment()
            remove_others(self._setup.run_store, self._weights)

    def _pictures(self, found: Evaluated) -> dict[str, tuple[str, bytes]]:
        """Return file name and content of the grid and of the curves, as far as there are any."""
        setup, spool = self._setup, self._spool
        assert spool is not None
        job, pictures = setup.job, dict[str, tuple[str, bytes]]()
        step = 0 if found.commit is None else found.commit.step
        note = f"step {step}, seed {job.spec.training.seed}, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
        if found.grid:
            maps = [objective.map for objective in setup.objectives if objective.map is not None]
            shown = f"{job.metadata.name}: {len(found.grid)} images, {note}"
            pictures["grid"] = ("grid.png", grid_png(found.grid, maps, note=shown))
        curves = read_curves(spool.folder)
        if any(name.startswith("train/loss") for name in curves):
            resumes = [step for step in _resumes(spool).values() if step]
            rows = f"{job.spec.training.batch.rows_per_objective} rows of each objective per step, {note}"
            order = in_order({*built_in(), *setup.objective_weights})
            png = curves_png(curves, objectives=order, title=job.metadata.name, note=rows, resumes=resumes)
            pictures["curves"] = ("curves.png", png)
        return pictures

    def _summary(self, found: Evaluated, files: dict[str, str]) -> Summary:
        setup, spool, commit = self._setup, self._spool, found.commit
        assert spool is not None
        return Summary(
            job=setup.job.metadata.name,
            uid=setup.env.uid,
            model=f"{setup.family.name} {setup.family.variant}",
            method=setup.job.spec.method,
            steps=0 if commit is None else commit.step,
            seconds=float(np.sum(list(read_curves(spool.folder).get("perf/step_s", {}).values()))),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            processes=setup.world_size,
            attempts=max(1, len(_resumes(spool))),
            weights="initial" if commit is None else "checkpoint",
            checkpoint="" if commit is None else commit.key,
            checkpoint_sha256=found.weights,
            training=redact_values(setup.job.trained_values(setup.data_digest)),
            data_digest=setup.data_digest if setup.data_sets else "",
            seeds=seeds_of(setup.job),
            versions=recorded_versions(),
            held_out=found.losses,
            image_use=found.image_use,
            benchmarks=found.benchmarks,
            left_out=found.left_out,
            files=files,
        )

    def _record(self, spool: Spool, found: Evaluated, summary: Summary, keys: list[str]) -> None:
        """Record for MLflow: a few scores as metrics of the run and of the checkpoint's model, each tied to what it was
        measured on; every number in tables and files, the grid as a picture of the step."""
        run_dir, curves = self._setup.env.run_dir, summary.curves()
        for name, result in found.benchmarks.items():
            if (md5 := result.provenance.get("data_md5")) is not None:  # else it is about the job's own data
                own = {key: value for key, value in curves.items() if key.split("/")[1] == name}
                spool.dataset(name, md5, self._data_of(name), "evaluation")
                spool.scores(summary.steps, own, found.weights, name, md5)
                curves = {key: value for key, value in curves.items() if key not in own}
        if curves and self._setup.data_sets:
            name = record_dataset(self._setup, spool, "evaluation")
            spool.scores(summary.steps, curves, found.weights, name, self._setup.data_digest)
        elif curves:
            spool.step(summary.steps, curves)
        for key in keys:
            if key == "results/grid.png":
                spool.image(run_dir / key, "samples", summary.steps)
            else:
                spool.artifact(run_dir / key, str(Path(key).parent))
        if keys[-1] == SUMMARY_KEY:
            self._record_tables(spool, summary)

    def _data_of(self, benchmark: str) -> str:
        """Return the URI of what a benchmark reads: a file or folder of its own, or the folder of published files."""
        evaluate = self._setup.job.spec.stages.evaluate
        settings = next((one.selected()[1] for _, one in evaluate.all_benchmarks() if one.key == benchmark), {})
        own = (settings.get(field) for field in ("file", "images"))
        return next((uri for uri in own if isinstance(uri, str)), evaluate.files or "")

    def _record_tables(self, spool: Spool, summary: Summary) -> None:
        """Record the tables, as MLflow's log_table does."""
        tables = []
        for name, table in summary.tables().items():
            file = self._setup.env.run_dir / "results" / "tables" / f"{name}.json"
            write_atomically(file, json.dumps({"columns": table.columns, "data": table.rows}).encode())
            spool.artifact(file, "tables")
            tables.append({"path": f"tables/{name}.json", "type": "table"})
        spool.tags({"mlflow.loggedArtifacts": json.dumps(tables)})


def recorded_versions() -> dict[str, str]:
    """Return package → version of those that results depend on."""
    return {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}


def _resumes(spool: Spool) -> dict[int, int]:
    """Return after which step each attempt began."""
    records = read_records(spool.folder)
    return {one.attempt: one.resume_step for one in records if one.resume_step is not None}


def seeds_of(job: UniMRGJob) -> dict[str, int]:
    """Seeds by purpose: the training, and each data source that has one."""
    sources = [source.selected() for source in job.spec.data.sources or ()]
    return {"training": job.spec.training.seed} | {
        name: settings["seed"] for name, settings in sources if isinstance(settings.get("seed"), int)
    }
