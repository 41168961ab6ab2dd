"""Checks before anything runs that what a job chooses by name can be built, and that its model's files exist.

Published sizes need files besides their weights: tokenizers, frozen encoders. They are in the family's folder of the
cache, or at `spec.model.assets`, from where each node fetches them once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.common.assets import Asset, assets_folder
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.copies import local_file


def check_choices(job: UniMRGJob, env: PodEnvironment) -> None:
    """Build family, maps and benchmarks without weights. Raises JobError with everything that is wrong or missing."""
    os.environ.setdefault("UNIMRG_CACHE", str(env.cache))  # as it is set for ranks
    problems: list[Problem] = []
    for path, build in _choices(job, env):
        try:
            build()
        except UserError as error:
            problems.append(Problem(path, "", error.message, error.remedy, exit_code=error.exit_code))
        except Exception as error:  # of an installed package, whatever it does
            message = f"the installed package fails: {type(error).__name__}: {error}"
            problems.append(Problem(path, "", message, "correct the package or its settings"))
    if problems:
        raise JobError(problems)


def provide_files(job: UniMRGJob, env: PodEnvironment, family: Family) -> None:
    """Fetch the files that the family needs to this node. Raises UserError (INPUT_MISSING) for a missing one."""
    folder = assets_folder(family.name)
    for asset in family.needed_files():
        if job.spec.model.assets is None:
            asset.find(folder)
        else:
            _link(_fetch(job, env, asset), folder / asset.file)


def _choices(job: UniMRGJob, env: PodEnvironment) -> Iterator[tuple[str, Callable[[], Any]]]:
    spec = job.spec
    yield "spec.model", lambda: _check_files(job, env, find_family(*spec.model.family()))
    for index, entry in enumerate(spec.objectives or ()):
        yield f"spec.objectives[{index}]", partial(objective, entry.key)
    for index, benchmark in enumerate(spec.stages.evaluate.benchmarks):
        path = f"spec.stages.evaluate.benchmarks[{index}]"
        yield path, partial(find_benchmark, *benchmark.selected())


def _check_files(job: UniMRGJob, env: PodEnvironment, family: Family) -> None:
    """Raise UserError for the first file that is missing; nothing is fetched."""
    for asset in family.needed_files():
        if job.spec.model.assets is None:
            asset.find(assets_folder(family.name))
        elif (store := _store(job, env)).size(asset.file) is None:
            raise _missing(asset, store.uri)


def _store(job: UniMRGJob, env: PodEnvironment) -> Any:
    assert job.spec.model.assets is not None
    return open_store(resolve_uri(job.spec.model.assets, env.spec_base), job.spec.storage)


def _fetch(job: UniMRGJob, env: PodEnvironment, asset: Asset) -> Path:
    store = _store(job, env)
    if store.size(asset.file) is None:
        raise _missing(asset, store.uri)
    return local_file(store, asset.file, env.cache)


def _link(path: Path, link: Path) -> None:
    """Link the file into the family's folder; several ranks of a node may do so at once."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.resolve() != path.resolve():
        new = link.with_name(f".{link.name}-{os.getpid()}")
        new.symlink_to(path)
        new.replace(link)


def _missing(asset: Asset, uri: str) -> UserError:
    return UserError(
        f"this model needs {asset.what}, and {uri}/{asset.file} is missing",
        remedy=asset.remedy,
        exit_code=ExitCode.INPUT_MISSING,
    )
