"""Checks before anything runs that what a job chooses by name can be built, and that its model's files exist.

Published sizes need files besides their weights: tokenizers, frozen encoders. They are in the family's folder of the
cache, or at `spec.model.assets`, from where each node fetches them once.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.spec_benchmarks import BenchmarkSpec
from unimrg_trainer.engine.initial_weights import check_headers
from unimrg_trainer.engine.parts import check_parts, parts_of
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace, NeedsFiles
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.runner import Asked
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.common.assets import Asset, assets_folder
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.copies import local_file

logger = logging.getLogger(__name__)


def check_components(job: UniMRGJob, env: PodEnvironment) -> None:
    """Build family, maps and benchmarks without weights. Raises JobError with everything that is wrong or missing."""
    problems: list[Problem] = []
    for path, is_custom, build in _components(job, env):
        try:
            build()
        except JobError as error:
            problems += error.problems
        except UserError as error:
            field, _, message = error.message.partition(": ")
            if not field.startswith(path) or " " in field:
                field, message = path, error.message
            problems.append(Problem(field, "", message, error.remedy, exit_code=error.exit_code))
        except Exception as error:
            if not is_custom:
                raise  # an exception in built-in code is a bug; one in an installed package is reported to the user
            logger.warning("%s: the installed package fails", path, exc_info=error)
            message = f"the installed package fails: {type(error).__name__}: {error}"
            problems.append(Problem(path, "", message, "correct the package or its settings"))
    if problems:
        raise JobError(problems)


def open_family(job: UniMRGJob, env: PodEnvironment) -> Family:
    """Return the job's family with `assets` set: its folder of the cache, or one for each `spec.model.assets` URI."""
    family = find_family(*job.spec.model.family())
    family.assets = assets_folder(env.cache, family.name)
    if job.spec.model.assets is not None:
        digest = hashlib.sha256(resolve_uri(job.spec.model.assets, env.spec_base).encode()).hexdigest()
        family.assets = env.cache / "assets" / digest[:16]
    return family


def provide_files(
    job: UniMRGJob,
    env: PodEnvironment,
    family: Family,
    files: Sequence[Asset] | None = None,
    on_read: Callable[[], None] = lambda: None,
) -> None:
    """Fetch `files`, or all that the family needs, to this node; calls `on_read` with every piece.

    Raises UserError (INPUT_MISSING) for missing ones.
    """
    check_files(job, env, family, files)
    if job.spec.model.assets is None:
        return
    for asset in family.needed_files() if files is None else files:
        path = local_file(_store(job, env), asset.file, env.cache, on_read)
        link = family.assets / asset.file
        if link.resolve() != path.resolve():
            link.parent.mkdir(parents=True, exist_ok=True)
            temporary_link = link.with_name(f".{uuid.uuid4().hex}")
            temporary_link.symlink_to(path)
            temporary_link.replace(link)  # several ranks of a node may do so at once


def check_files(job: UniMRGJob, env: PodEnvironment, family: Family, files: Sequence[Asset] | None = None) -> None:
    """Raise UserError (INPUT_MISSING) that names every one of `files`, or of all that the family needs, that is missing
    or empty."""
    missing, where = [], str(family.assets)
    for asset in family.needed_files() if files is None else files:
        if job.spec.model.assets is None:
            path = family.assets / asset.file
            size = path.stat().st_size if path.is_file() else 0
        else:
            store = _store(job, env)
            size, where = store.size(asset.file) or 0, store.uri
        if not size:
            missing.append(asset)
    if missing:
        names = ", ".join(f"{asset.file} ({asset.what})" for asset in missing)
        raise UserError(
            f"this model needs files that are missing or empty in {where}: {names}",
            remedy="; ".join(asset.remedy for asset in missing),
            exit_code=ExitCode.INPUT_MISSING,
        )


def _components(job: UniMRGJob, env: PodEnvironment) -> Iterator[tuple[str, bool, Callable[[], Any]]]:
    """Yield (field, whether it is a custom package, a call that raises if it cannot be built)."""
    spec = job.spec
    family = cache(lambda: open_family(job, env))
    custom = spec.model.custom is not None
    yield "spec.model", custom, lambda: check_files(job, env, family())
    if spec.model.init is not None:
        uri = resolve_uri(spec.model.init, env.spec_base)
        yield "spec.model.init", custom, lambda: check_headers(family(), uri, spec.storage)
    yield "spec.training.parts", custom, lambda: _check_parts(job, family())
    for index, entry in enumerate(spec.objectives or ()):
        yield f"spec.objectives[{index}]", entry.custom is not None, partial(objective, entry.key)
    for benchmark, place in benchmark_places(job, env):
        yield place.field, benchmark.custom is not None, partial(_check_benchmark, benchmark, place)


def benchmark_places(job: UniMRGJob, env: PodEnvironment) -> Iterator[tuple[BenchmarkSpec, BenchmarkPlace]]:
    """Yield each benchmark of the job's evaluation, those of its suite too, with its place."""
    evaluate = job.spec.stages.evaluate
    for field, entry in evaluate.all_benchmarks():
        if not field.endswith("suite"):
            field = f"{field}.{'custom' if entry.custom is not None else entry.key}"
        yield entry, BenchmarkPlace(field, env.spec_base, job.spec.storage, env.cache, evaluate.files)


def asked_benchmarks(job: UniMRGJob, env: PodEnvironment) -> dict[str, Asked]:
    """Return the benchmarks of the job's evaluation by entry, its suite's too.

    Raises UserError for wrong settings, and for two benchmarks of one name, whose results would replace each other.
    """
    found: dict[str, Asked] = {}
    for entry, place in benchmark_places(job, env):
        name, settings = entry.selected()
        limit = None if entry.custom is not None else settings.get("limit")
        asked = Asked(find_benchmark(name, settings, place), settings, limit)
        if any(one.name == asked.name for one in found.values()):
            raise UserError(
                f"{place.field}: another benchmark of this job names its results {asked.name}, too",
                remedy="leave one of them out, or give the benchmark of your package another name",
            )
        found[entry.key] = asked
    return found


def _check_benchmark(entry: BenchmarkSpec, place: BenchmarkPlace) -> None:
    """Build a benchmark, and have it look for the files that it needs."""
    benchmark = find_benchmark(*entry.selected(), place)
    if isinstance(benchmark, NeedsFiles):
        benchmark.check_files()


def _check_parts(job: UniMRGJob, family: Family) -> None:
    """Check what is known of a built-in family's parts from the job alone."""
    parts, wanted = job.spec.training.parts, job.spec.resolved_objectives()
    check_parts(family, parts)
    if job.spec.model.custom is not None and any(float(part.learning_rate_scale) == 0 for part in parts):
        with torch.device("meta"):
            module = family.build()
        parts_of(module, family, [objective(name) for name, weight in wanted.items() if weight], parts)


def _store(job: UniMRGJob, env: PodEnvironment) -> Any:
    assert job.spec.model.assets is not None
    return open_store(resolve_uri(job.spec.model.assets, env.spec_base), job.spec.storage)
