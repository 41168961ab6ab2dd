"""Judges images that lie in a benchmark's layout: those of a run without judges, of published scripts, photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_cli.view import View
from unimrg_trainer.data.decode import decode_image
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace
from unimrg_trainer.evaluation.benchmarks.prompted import JudgesFolders
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.result import Table
from unimrg_trainer.local_folders import cache_folder

SEED = 0
"""Of what a benchmark draws when it scores."""


class JudgedReport(View):
    """Scores of images, and what they depend on."""

    benchmark: str
    images: int
    metrics: dict[str, float]
    warnings: list[str]
    provenance: dict[str, str]
    table: Table


def judge_images(
    folder: Path, benchmark: str, settings: Mapping[str, Any], files: str | None, device: str, out: Path | None
) -> JudgedReport:
    """Judge the images of a folder; `settings` are those of the benchmark in a job, `files` as there.

    What the benchmark writes besides, GenEval's `results.jsonl` or DPG-Bench's `answers.jsonl`, goes into the folder
    `out`. Raises UserError: 66 without images, files or weights, 65 for what cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", remedy="correct the path", exit_code=ExitCode.INPUT_MISSING)
    place = BenchmarkPlace(benchmark, Path.cwd(), cache=cache_folder(), files=files)
    asked = find_benchmark(benchmark, settings, place)
    assert isinstance(asked, JudgesFolders)
    asked.device = device
    found = list(asked.of_folder(folder))
    if not found:
        raise UserError(
            f"there is no image in the layout of {benchmark} in {folder}",
            remedy="name results/BENCHMARK of a run; docs/how-to/evaluation.md shows the layout",
            exit_code=ExitCode.INPUT_MISSING,
        )
    results = []
    for item, path in track(found, "", console=Console(stderr=True), transient=True):
        try:
            image = decode_image(path.read_bytes())
        except ValueError as error:
            raise UserError(
                f"{path} is no image: {error}", remedy="generate it again", exit_code=ExitCode.DATA_CORRUPT
            ) from error
        results.append((item, {"file": path.relative_to(folder).as_posix()} | asked.judge(item, image)))
    result = asked.score(results, SEED)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in result.files.items():
            (out / name).write_bytes(content)
    return JudgedReport(
        benchmark=benchmark,
        images=len(found),
        metrics=result.metrics,
        warnings=list(result.warnings),
        provenance=result.provenance,
        table=result.table,
    )
