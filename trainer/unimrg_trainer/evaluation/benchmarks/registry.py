"""Benchmarks by the name that a job gives them: built-in ones, and entry points of the group `unimrg.benchmarks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from unimrg_api.plugins import load
from unimrg_trainer.evaluation.benchmarks.base import Benchmark, BenchmarkFactory, BenchmarkPlace

BENCHMARKS = {
    "spatial": "unimrg_trainer.evaluation.benchmarks.spatial:Spatial",
    "generatedMaps": "unimrg_trainer.evaluation.benchmarks.generated_maps:GeneratedMaps",
    "genEval": "unimrg_trainer.evaluation.benchmarks.geneval:GenEval",
    "dpgBench": "unimrg_trainer.evaluation.benchmarks.dpg_bench:DpgBench",
    "outOfDomainDepth": "unimrg_trainer.evaluation.benchmarks.out_of_domain_depth:OutOfDomainDepth",
    "mmbench": "unimrg_trainer.evaluation.benchmarks.mmbench:benchmark",
    "mmvp": "unimrg_trainer.evaluation.benchmarks.mmvp:benchmark",
    "hallusionBench": "unimrg_trainer.evaluation.benchmarks.hallusionbench:benchmark",
    "realWorldQa": "unimrg_trainer.evaluation.benchmarks.realworldqa:benchmark",
    "vsr": "unimrg_trainer.evaluation.benchmarks.vsr:benchmark",
    "tsv": "unimrg_trainer.evaluation.benchmarks.tsv:benchmark",
}
"""Name → factory."""


def find_benchmark(name: str, settings: Mapping[str, Any], place: BenchmarkPlace) -> Benchmark:
    """Return the benchmark of that name. Raises UserError for an unknown one, or for settings that it does not take."""
    factory = load("unimrg.benchmarks", BENCHMARKS, name, field=place.field)
    return cast(BenchmarkFactory, factory)(settings, place)
