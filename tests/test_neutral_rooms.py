"""Shared rooms name no family, map, benchmark, source or backend: what is behind an extension point stays behind it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINER, OPERATOR, API = "trainer/unimrg_trainer", "operator/unimrg_operator", "api/unimrg_api"

TRAINER_ROOMS = [
    "engine",
    "packing",
    "objectives",
    "data",
    "preparation",
    "launch",
    "checkpoint",
    "tracking",
    "evaluation",
    "storage",
]
FILES = [
    *(f"{TRAINER}/{file}.py" for file in ("models/base", "models/requests", "maps/base", "maps/geometry")),
    *(f"{TRAINER}/{file}.py" for file in ("sample", "rng", "job_stores")),
    *(f"{OPERATOR}/backends/{file}.py" for file in ("base", "children", "objects", "pod", "profile")),
]
SHARED = [
    *(f"{TRAINER}/{room}" for room in TRAINER_ROOMS),
    *(f"{OPERATOR}/{room}" for room in ("core", "app", "kube")),
    API,
    "cli/unimrg_cli",
    *FILES,
]

EXCEPT = {
    f"{TRAINER}/evaluation/benchmarks": "one file for each benchmark, and their registry",
    f"{TRAINER}/evaluation/judges": "one file for each model that judges",
    f"{TRAINER}/preparation/sources": "one file for each source",
    f"{TRAINER}/preparation/registry.py": "the registry of sources",
    f"{TRAINER}/preparation/producers": "one file for each model that makes a map, and their registry",
    f"{API}/sizes": "one file for each family, and their language model",
    f"{API}/arithmetic/families": "one file for each family, and their registry",
    f"{API}/spec_model.py": "the job's union of families, and the names of objectives in the published methods",
    f"{API}/spec_benchmarks.py": "the job's union of benchmarks",
    f"{API}/spec_stages.py": "the benchmark of a job that names none",
    f"{API}/spec_sources.py": "the job's union of sources, and their settings",
    f"{API}/spec_data.py": "whether the job generates its images, and an example in a message",
    f"{API}/spec_maps.py": "the job's unions of models that make maps",
    "cli/unimrg_cli/first_job.py": "a first job for each family, as its quick start and its recipe have it",
    f"{API}/job.py": "exports the members of the unions, and the rules of the published methods",
}
"""Path → why names are allowed there."""

NAMES = (
    "harmon",
    "mar",
    "kl16",
    "showo",
    "magvit",
    "phi",
    "openuni",
    "sana",
    "internvl",
    "internvl3",
    "pixel",
    "depth",
    "segmentation",
    "spatial",
    "generatedmaps",
    "scenes",
    "pytorchjob",
)

ALLOWED = {
    f"{OPERATOR}/app/metrics.py": {"depth"},
    f"{API}/yaml_source.py": {"depth"},
    f"{API}/arithmetic/plan.py": {"pixel"},
    f"{TRAINER}/data/prefetch.py": {"depth"},
    f"{TRAINER}/maps/geometry.py": {"pixel"},
    f"{OPERATOR}/backends/profile.py": {"pytorchjob"},
}
"""Path → words that mean something else there, or the default of a setting."""


def words(tree: ast.AST) -> Iterator[str]:
    """Every identifier and every string that is no docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, documented)
        for node in parent.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def named() -> dict[str, set[str]]:
    """Path of a shared file → the names in it."""
    result: dict[str, set[str]] = {}
    for room in SHARED:
        place = ROOT / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if any(path == exempt or path.startswith(f"{exempt}/") for exempt in EXCEPT):
                continue
            for text in words(ast.parse(file.read_text())):
                parts = {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", text)}
                if there := (parts | {text.lower()}) & set(NAMES):
                    result.setdefault(path, set()).update(there)
    return result


def test_shared_rooms_name_nothing_behind_an_extension_point() -> None:
    """Equal, and not only contained: an exception that is no longer needed goes."""
    assert named() == ALLOWED


def test_every_shared_and_every_exempt_place_exists() -> None:
    assert not [path for path in (*SHARED, *EXCEPT) if not (ROOT / path).exists()]
