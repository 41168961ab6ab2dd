"""Writes a first job for a family, a method and a place, each field with what the models say about it."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

from unimrg_api.errors import UserError
from unimrg_api.introspection import Location, schema_at
from unimrg_api.job import API_VERSION, KIND, UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.spec_model import Method
from unimrg_api.spec_sources import IMAGE_SUFFIXES
from unimrg_cli.yaml_text import scalar

Place = Literal["laptop", "cluster"]

_TINY: dict[str, dict[str, Any]] = {
    "harmon": {"optimizer": {"learningRate": "1e-3"}},
    "openuni": {"optimizer": {"learningRate": "5e-3", "weightDecay": "0.05"}},
    "showo": {"optimizer": {"learningRate": "3e-3", "beta2": "0.999", "weightDecay": "0.01"}},
}
"""By family, what its quick start says about training, for the size that trains on a laptop."""
_PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "harmon": (
        "1.5B",
        {
            "batch": {"rowsPerObjective": 128, "cohortRows": 16, "microBatchRows": 2},
            "optimizer": {"learningRate": "1e-5", "weightDecay": "0.02"},
            "schedule": {"warmupSteps": 25, "totalSteps": 2500},
            "stopStep": 1000,
        },
        8,
    ),
    "openuni": (
        "L-512",
        {
            "batch": {"rowsPerObjective": 128, "cohortRows": 16, "microBatchRows": 2},
            "optimizer": {"learningRate": "1e-5", "weightDecay": "0.05"},
            "schedule": {"warmupSteps": 25, "totalSteps": 2500},
            "stopStep": 1000,
        },
        8,
    ),
    "showo": (
        "CLIP-512",
        {
            "batch": {"rowsPerObjective": 10, "cohortRows": 2, "microBatchRows": 2},
            "optimizer": {"learningRate": "5e-7", "beta2": "0.999", "weightDecay": "0.01", "clipNorm": "999"},
            "schedule": {"warmupSteps": 1000, "totalSteps": 1_000_000},
            "stopStep": 5000,
        },
        1,
    ),
}
"""By family: the size, what its recipe in examples/recipes says about training, GPUs."""
FAMILIES = tuple(_TINY)
METHODS: tuple[str, ...] = get_args(Method)
PLACES: tuple[str, ...] = get_args(Place)

_HEADS = {
    "laptop": """\
# {method} for {family}, small enough for this machine: CPU processes, folders beside this file.
#   unimrg run {file}         (again: it goes on where it was)
#   unimrg status {file}
""",
    "cluster": """\
# {method} for {family} on a cluster. Change bucket, addresses and secrets to yours.
#   unimrg plan {file}        what it needs
#   unimrg submit {file}
# Weights and assets come from `unimrg ckpt import`, the secrets from kubectl (see credentials), the image and all else
# about nodes from the cluster's site profile.
""",
}
_WIDTH = 110
_PRODUCE = "name a model that makes them in spec.data.maps, or leave the objective out (spec.objectives)"
_BESIDE = {
    "Understanding": (".json", "write them, or leave the objective out (spec.objectives)"),
    "Depth": (".depth.png", _PRODUCE),
    "Segmentation": (".segmentation.png", _PRODUCE),
}
"""By objective, the ending of what it learns from, and what to do without."""


def first_job(
    family: str, method: str, place: str, name: str, images: str | None = None, base: Path = Path()
) -> dict[str, Any]:
    """Return the job, in the folder `base`, as plain values; `images` is the folder that is trained on, or its URI."""
    spec = _laptop(family, name) if place == "laptop" else _cluster(family, name)
    if images is not None:
        held_out = _held_out(images)
        spec["data"]["sources"] = [{"folder": {"uri": _uri(images, base), "heldOut": held_out}}]
        spec["stages"]["evaluate"].update(benchmarks=[], heldOutRows=held_out)
    model = spec.pop("model")
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {"model": model, "method": method, **spec},
    }


def _laptop(family: str, name: str) -> dict[str, Any]:
    return {
        "model": {family: {"variant": "Tiny"}},
        "training": {
            "batch": {"rowsPerObjective": 8, "cohortRows": 4, "microBatchRows": 4},
            **_TINY[family],
            "schedule": {"warmupSteps": 10, "totalSteps": 150},
            "precision": "FP32",
            "seed": 42,
        },
        "trainer": {"gpusPerNode": 0, "processesPerNode": 1},
        "data": {
            "sources": [{"scenes": {"train": 1000, "heldOut": 64, "imageSize": 32, "seed": 7}}],
            "shards": [f"file://runs/{name}-data"],
        },
        "checkpoint": {"uri": f"file://runs/{name}", "everySteps": 50},
        "tracking": {"mlflow": {"experiment": f"unimrg/{family}"}},
        "stages": {"evaluate": {"benchmarks": [{"spatial": {"questions": 64}}], "heldOutRows": 64, "sampleImages": 4}},
    }


def _cluster(family: str, name: str) -> dict[str, Any]:
    variant, training, gpus = _PUBLISHED[family]
    return {
        "model": {
            "init": f"s3://your-bucket/weights/{family}",
            "assets": f"s3://your-bucket/assets/{family}",
            family: {"variant": variant},
        },
        "training": {**training, "precision": "BF16", "seed": 42},
        "trainer": {"nodes": 1, "gpusPerNode": gpus},
        "data": {"shards": ["s3://your-bucket/data"]},
        "storage": {"endpoint": "http://s3.example:9000", "credentials": {"secretName": "s3-credentials"}},
        "checkpoint": {"uri": f"s3://your-bucket/runs/{name}", "everySteps": 100},
        "tracking": {"mlflow": {"uri": "http://mlflow.example:5000", "experiment": f"unimrg/{family}"}},
        "stages": {"evaluate": {"benchmarks": [], "heldOutRows": 256}},
    }


def _uri(images: str, base: Path) -> str:
    """Return a folder as a URI, relative where it lies in the job's."""
    if "://" in images:
        return images
    folder, base = Path(images).resolve(), base.resolve()
    inside = folder != base and folder.is_relative_to(base)
    return f"file://{quote(folder.relative_to(base).as_posix())}" if inside else folder.as_uri()


def _held_out(images: str) -> int:
    """Return how many images to keep for the evaluation: a tenth, as far as they can be counted here, at most 64."""
    names = [] if "://" in images else [name.lower() for name in _names(images)]
    maps = tuple(ending for ending, _ in _BESIDE.values())
    count = sum(name.endswith(IMAGE_SUFFIXES) and not name.endswith(maps) for name in names) or 640
    return min(64, max(1, count // 10))


def _names(images: str) -> list[str]:
    """Return the names of all files below a folder. Raises UserError where a folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"the folder {error.filename} cannot be read: {error.strerror}",
            remedy="check its permissions: training reads it too",
        )

    return [name for _, _, files in os.walk(images, onerror=refuse) for name in files]


def missing_beside(images: str, objectives: Collection[str]) -> list[str]:
    """Return what a folder lacks to be trained on: images, or what objectives learn from and no image has beside it.

    Nothing for a URI.
    """
    if "://" in images:
        return []
    names = _names(images)
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
        return [f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)}) yet, and training needs two at least"]
    return [
        f"{objective} learns from files NAME{ending} beside images, and there is none: {remedy}"
        for objective, (ending, remedy) in _BESIDE.items()
        if objective in objectives and not any(name.endswith(ending) for name in names)
    ]


def job_text(value: dict[str, Any], place: str, file: str) -> str:
    """Return a job as commented YAML; the comments are the first sentences of what the reference says."""
    (family,) = set(value["spec"]["model"]) & set(FAMILIES)
    head = _HEADS[place].format(method=value["spec"]["method"], family=family, file=file)
    return head + "\n".join(_lines(value, ())) + "\n"


def _lines(value: dict[str, Any], location: Location) -> list[str]:
    """Return the fields of a mapping, each below its comment, indented as deep as the place is."""
    lines, indent = [], "  " * len(location)
    for name, item in value.items():
        place = (*location, name)
        lines += [f"{indent}# {line}" for line in _comment(place, _WIDTH - len(indent))] if len(place) > 1 else []
        if isinstance(item, dict):
            lines += [f"{indent}{name}:", *_lines(item, place)]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{name}:")
            for index, entry in enumerate(item):
                lines += _entry(entry, (*place, index), f"{indent}  ")
        else:
            lines.append(f"{indent}{name}: {_flow(item)}")
    return lines


def _entry(entry: dict[str, Any], place: Location, indent: str) -> list[str]:
    """Return the only member of an entry of a list below its comment, with its fields on one line."""
    ((name, fields),) = entry.items()
    shown = ", ".join(f"{key}: {_flow(value)}" for key, value in fields.items())
    comment = [f"{indent}# {line}" for line in _comment((*place, name), _WIDTH - len(indent))]
    return [*comment, f"{indent}- {name}: {{{shown}}}"]


def _flow(value: Any) -> str:
    return f"[{', '.join(map(scalar, value))}]" if isinstance(value, list) else scalar(value)


def _comment(place: Location, width: int) -> list[str]:
    text = str((schema_at(UniMRGJob, place) or {}).get("description", ""))
    first = re.split(r"(?<=[.!?])\s(?=[A-Z0-9`])", text, maxsplit=1)[0]
    return textwrap.wrap(first, max(width, 40), break_long_words=False, break_on_hyphens=False)


def write_first_job(
    file: Path, family: str, method: str, place: str, name: str, images: str | None, *, force: bool
) -> list[str]:
    """Write a first job into a file; return what it lacks to be trained.

    Raises UserError for a file that is there already, unless `force`, and for a folder of images that is not there.
    """
    if images is not None and "://" not in images and not Path(images).is_dir():
        raise UserError(f"{images} is not a folder", remedy="name the folder of your images, or its URI")
    if images is not None and "://" not in images and file.resolve().is_relative_to(Path(images).resolve()):
        raise UserError(
            f"{file} would lie in the folder of images, and what its job writes would become part of the data",
            remedy="write it beside that folder, or give the images a folder of their own",
        )
    if file.is_dir():
        raise UserError(f"{file} is a folder", remedy=f"give a file's name, e.g. {file / 'job.yaml'}")
    value = first_job(family, method, place, name, images, file.parent)
    job = parse_job(value)  # so that a wrong name is refused before anything is written
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(job_text(value, place, str(file)))
    except FileExistsError:
        raise UserError(f"{file} is there already", remedy="give another name, or --force to replace it") from None
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror or error}", remedy="choose a folder that is there and yours"
        ) from None
    return [] if images is None else missing_beside(images, job.spec.resolved_objectives())
