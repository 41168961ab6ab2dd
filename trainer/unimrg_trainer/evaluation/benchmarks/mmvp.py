"""MMVP: pairs of images that differ in one detail, with the same question about both.

`acc_question` is the share of right answers (VLMEvalKit's `Average`), `acc_pair` that of pairs with both right. A
column `Overall` of VLMEvalKit is `acc_pair` since 2025-12-20, and was `acc_question` before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

from unimrg_trainer.evaluation.benchmarks.tsv import Contributions, Source, TableRules, TsvBenchmark
from unimrg_trainer.evaluation.vlmevalkit.replies import Reply, by_index, refuse_rows
from unimrg_trainer.evaluation.vlmevalkit.tables import Row


def contributions(replies: Sequence[Reply]) -> Contributions:
    """Return each row's share in `acc_question`, and of the first of a pair in `acc_pair`. Replies come in pairs."""
    given: dict[str, dict[str, float]] = {}
    for first, second in zip(replies[::2], replies[1::2], strict=True):
        given[first.index] = {"acc_question": float(first.right), "acc_pair": float(first.right and second.right)}
        given[second.index] = {"acc_question": float(second.right)}
    return given


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row | None]]:
    """Return rows two by two in the order of their indices."""
    ordered = sorted(rows, key=by_index)
    return list(zip_longest(ordered[::2], ordered[1::2]))


def clusters(rows: Sequence[Row]) -> dict[str, str]:
    """Return index → the index of the pair's first row."""
    return {row["index"]: first["index"] for first, second in pairs(rows) for row in (first, second) if row}


def check(rows: Sequence[Row]) -> None:
    """Raise UserError (65) unless the rows, in the order of their indices, are pairs with the same question."""
    alone = [first for first, second in pairs(rows) if second is None or first["question"] != second["question"]]
    refuse_rows("rows that no second row of their pair follows, with the same question", alone)


RULES = TableRules(
    "mmvp",
    "MultipleChoice",
    ("acc_question", "acc_pair"),
    Source(
        "MMVP.tsv", "https://opencompass.openxlab.space/utils/VLMEval/MMVP.tsv", "8cb732b141a0cba5b42159df2839e557", 300
    ),
    contributions,
    clusters,
    by_group=(),
    check=check,
)

benchmark = partial(TsvBenchmark, RULES)
"""(settings, place) → the benchmark."""
