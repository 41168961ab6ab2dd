"""HallusionBench: several questions about a figure, and the same question about several figures.

An index has six parts, the last three of which are set, figure and question. `aacc` is the share of right answers,
`facc` that of figures and `qacc` that of questions of which all answers are right, by VLMEvalKit's rules: questions
without an image are left out, and there is no judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from unimrg_trainer.evaluation.benchmarks.tsv import Contributions, Source, TableRules, TsvBenchmark, categories_of
from unimrg_trainer.evaluation.vlmevalkit.replies import Reply, refuse_rows
from unimrg_trainer.evaluation.vlmevalkit.tables import Row

SET, FIGURE, QUESTION = 3, 4, 5
"""Places of the parts of an index."""


def contributions(replies: Sequence[Reply]) -> Contributions:
    """Return each row's share in `aacc`, and of the first of each figure or question in `facc` or `qacc`."""
    given = {reply.index: {"aacc": float(reply.right)} for reply in replies}
    for metric, part in (("facc", FIGURE), ("qacc", QUESTION)):
        together: dict[tuple[str, str, str], list[Reply]] = defaultdict(list)
        for reply in replies:
            parts = reply.index.split("_")
            together[reply.row.get("l2-category", ""), parts[SET], parts[part]].append(reply)
        for members in together.values():
            given[members[0].index][metric] = float(all(reply.right for reply in members))
    return given


def check(rows: Sequence[Row]) -> None:
    """Raise UserError (65) for indices without six parts."""
    refuse_rows(
        "rows whose index lacks the six parts of HallusionBench, joined by `_`",
        [row for row in rows if len(row["index"].split("_")) <= QUESTION],
    )


def set_of(row: Row) -> str:
    """Return the set that a row's figure belongs to."""
    return f"{row.get('l2-category', '')}/{row['index'].split('_')[SET]}"


RULES = TableRules(
    "hallusionBench",
    "YesNo",
    ("aacc", "facc", "qacc"),
    Source(
        "HallusionBench.tsv",
        "https://opencompass.openxlab.space/utils/VLMEval/HallusionBench.tsv",
        "0c23ac0dc9ef46832d7a24504f2a0c7c",
        951,
    ),
    contributions,
    lambda rows: {row["index"]: set_of(row) for row in rows},
    lambda row: categories_of(row)[::-1],
    by_group=("aacc", "facc", "qacc"),
    check=check,
)

benchmark = partial(TsvBenchmark, RULES)
"""(settings, place) → the benchmark."""
