"""Prepares the data of a job on this machine by the prepare stage alone, with its progress on standard error."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from rich.console import Console

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.spec_sources import IMAGE_SUFFIXES
from unimrg_cli.first_job import FAMILIES
from unimrg_cli.view import View
from unimrg_trainer.data.publication import published
from unimrg_trainer.data.shards import join
from unimrg_trainer.data.verify import manifest_of
from unimrg_trainer.job_stores import data_stores, wanted_digest
from unimrg_trainer.launch.devices import fit_to_machine
from unimrg_trainer.launch.live_view import live_view
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.stages import execute
from unimrg_trainer.local_folders import TERMINATION_FILE, provide_home
from unimrg_trainer.preparation.write import added
from unimrg_trainer.storage import open_store


class PreparedReport(View):
    """What `unimrg data prepare` made or found."""

    uri: str
    digest: str
    reused: bool
    """Whether it was there already."""
    issues: dict[str, int]
    """Items of the sources that were left out, or are not what they seem, by reason."""


def prepare_here(job: UniMRGJob, file: Path, processes: int | None = None) -> PreparedReport:
    """Write the data set of a job's sources to its store, unless it is there; by `processes`, or as many as it says.

    Raises UserError for a job without sources and for whatever ends the stage, with the stage's exit code.
    """
    if job.spec.data.sources is None:
        raise UserError(
            f"{file} names no data.sources, so there is nothing to prepare",
            remedy="add them, or look at the data that it names: `unimrg data inspect`",
        )
    provide_home()
    logging.getLogger("unimrg_trainer").addHandler(logging.NullHandler())  # the error says what the log would
    with TemporaryDirectory(prefix="unimrg-prepare-") as scratch:
        job = _alone(fit_to_machine(job, None)[0], Path(scratch), processes)
        env = local_environment(job, file, None)
        env = replace(env, run_dir=Path(scratch), termination_log=Path(scratch) / TERMINATION_FILE)
        store, digest = data_stores(job, env)[0], wanted_digest(job, env)
        assert digest is not None
        reused = published(store, digest) is not None
        with StopRequest().installed() as stop, live_view(Console(stderr=True), env.run_dir, stop):
            end = execute("prepare", env, stop)
    if end.code is not ExitCode.OK:
        raise UserError(end.record.message, exit_code=end.code)
    made = published(store, digest)
    assert made is not None
    issues = added(manifest_of(store, made, split).issues for split in made.manifests)
    counts = {reason: one.count for reason, one in issues.items()}
    return PreparedReport(uri=join(store.uri, made.prefix), digest=digest, reused=reused, issues=counts)


def _alone(job: UniMRGJob, scratch: Path, processes: int | None) -> UniMRGJob:
    """Return the job with its run in a folder of its own: what is prepared need not fit the training that is there."""
    spec = job.spec
    checkpoint = spec.checkpoint.model_copy(update={"uri": scratch.as_uri()})
    preparation = spec.data.preparation.model_copy(
        update={"pods": 1, "processes": processes or spec.data.preparation.processes}
    )
    data = spec.data.model_copy(update={"preparation": preparation})
    return job.model_copy(update={"spec": spec.model_copy(update={"checkpoint": checkpoint, "data": data})})


def pack_here(
    source: str, out: str, images: str | None, common: Mapping[str, Any], max_bad_fraction: str, processes: int | None
) -> PreparedReport:
    """Prepare a folder of images, LLaVA's annotations (*.json, *.jsonl, with their `images`), or WebDataset tars.

    `common` are settings that every source has. Paths count from the working folder. Raises UserError as `prepare_here`
    does.
    """
    place = _uri(source)
    if source.lower().endswith((".json", ".jsonl")):
        if images is None:
            raise UserError(f"{source} holds annotations", remedy="name the folder of their images with --images")
        kind = {"llava": {"annotations": place, "images": _uri(images), **common}}
    elif "{" in source or _holds_tars(place):
        kind = {"webDataset": {"uri": place, **common}}
    else:
        kind = {"folder": {"uri": place, **common}}
    data = {"sources": [kind], "shards": [_uri(out)], "preparation": {"maxBadFraction": max_bad_fraction}}
    # a job to carry the data: nothing of its model or training counts
    spec: dict[str, Any] = {"model": {FAMILIES[0]: {"variant": "Tiny"}}, "trainer": {"gpusPerNode": 0}, "data": data}
    spec |= {
        "method": "SFT",  # which needs no map
        "training": {
            "batch": {"rowsPerObjective": 1, "cohortRows": 1, "microBatchRows": 1},
            "schedule": {"warmupSteps": 0, "totalSteps": 1},
        },
        "checkpoint": {"uri": "file:///unused"},
    }
    job = parse_job({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "pack"}, "spec": spec})
    return prepare_here(job, Path.cwd() / "job", processes)


def _holds_tars(place: str) -> bool:
    """Tell whether a folder is of tars, and not of images. Raises UserError where it is of both."""
    seen = [key for key, _ in open_store(place).list() if not any(part.startswith(".") for part in key.split("/"))]
    tar = next((key for key in seen if key.endswith(".tar")), None)
    image = next((key for key in seen if key.lower().endswith(IMAGE_SUFFIXES)), None)
    if tar is not None and image is not None:
        raise UserError(
            f"{place} holds tars and images, e.g. {tar} and {image}, and only one kind can be packed at once",
            remedy="move one kind to a folder of its own, or name the tars by number (part-{000..127}.tar)",
        )
    return tar is not None


def _uri(place: str) -> str:
    """Return a path as a URI; braces, which stand for several tars, stay."""
    return place if "://" in place else f"file://{quote(os.fsencode(os.path.abspath(place)), safe='/{}')}"  # noqa: PTH100 - links stay
