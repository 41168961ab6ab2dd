"""VLMEvalKit's result tables in the names and the unit of our metrics, to compare the two.

Its column names mean different things from benchmark to benchmark, and MMVP's `Overall` from version to version.
"""

from __future__ import annotations

from collections.abc import Mapping

from unimrg_trainer.evaluation.benchmarks.tsv import TableRules
from unimrg_trainer.evaluation.result import in_metric

_RENAMED = {"f1_score": "f1"}


def as_our_metrics(rules: TableRules, scores: Mapping[str, float]) -> dict[str, float]:
    """Return our metric → value in percent for what `read_scores` read; what has no metric of ours is left out."""
    found: dict[str, float] = {}
    benchmark = rules.name
    for name, value in scores.items():
        split, _, column = name.rpartition("/")
        if benchmark == "mmbench":
            kind = next((kind for kind in ("vanilla_0", "vanilla_all") if split.startswith(kind)), "circular")
            if kind != "circular" and column != "Overall":
                continue
            metric, factor = _of_group(f"acc_{kind}", column), 100
        elif benchmark == "mmvp":
            pair = column == "Overall" and "Average" in scores  # without it: before 2025-12-20, and per question
            metric, factor = "acc_pair" if pair else "acc_question", 100
        elif benchmark == "hallusionBench":
            metric, factor = f"{column.lower()}/{in_metric(split)}" if split else column.lower(), 1
        elif benchmark == "vsr":
            metric, factor = _RENAMED.get(column, column), 100 if column == "f1_score" else 1
        else:
            metric, factor = _of_group("acc", column), 100 if rules.kind == "MultipleChoice" else 1
        found[metric] = factor * value
    return found


def _of_group(metric: str, column: str) -> str:
    return metric if column == "Overall" else f"{metric}/{in_metric(column)}"
