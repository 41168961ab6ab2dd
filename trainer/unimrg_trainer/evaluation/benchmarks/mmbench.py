"""MMBench DEV_EN: every question with its options rotated, and right only if all rotations are.

Row `index` = question + k·10⁶ is rotation k. `acc_circular` is VLMEvalKit's `Overall`, `acc_vanilla_all` the share of
right rows, `acc_vanilla_0` that of unrotated ones. Which of them a publication means by MMBench it has to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from unimrg_trainer.evaluation.benchmarks.tsv import Contributions, Source, TableRules, TsvBenchmark
from unimrg_trainer.evaluation.vlmevalkit.prompts import options
from unimrg_trainer.evaluation.vlmevalkit.replies import Reply, refuse_rows
from unimrg_trainer.evaluation.vlmevalkit.tables import Row

ROTATION = 1_000_000
ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
"""l2-category → the abbreviation in tables."""


def contributions(replies: Sequence[Reply]) -> Contributions:
    """Return each row's share in `acc_vanilla_all`, and of unrotated rows in the two others."""
    questions: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        questions[question_of(reply.row)].append(reply)
    given = {}
    for reply in replies:
        scores = {"acc_vanilla_all": float(reply.right)}
        if reply.index == (question := question_of(reply.row)):
            scores["acc_circular"] = float(all(rotation.right for rotation in questions[question]))
            scores["acc_vanilla_0"] = float(reply.right)
        given[reply.index] = scores
    return given


def question_of(row: Row) -> str:
    """Return the index of the unrotated row."""
    return str(int(row["index"]) % ROTATION)


def groups(row: Row) -> list[str]:
    """Return a row's ability and its category."""
    ability = [ABILITIES.get(row["l2-category"], row["l2-category"])] if "l2-category" in row else []
    return [*ability, *([row["category"]] if "category" in row else [])]


def check(rows: Sequence[Row]) -> None:
    """Raise UserError (65) for indices that are no numbers, and for a table without unrotated rows."""
    refuse_rows("rows whose index is no number", [row for row in rows if not row["index"].isdecimal()])
    if not any(int(row["index"]) < ROTATION for row in rows):
        refuse_rows(f"rows that are rotations of missing ones, as no index is below {ROTATION}", rows)


def doubts(rows: Sequence[Row]) -> list[str]:
    """Say which questions lack rotations: fewer of them are more easily all right."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[question_of(row)].append(row)
    lacking = [name for name, rotations in found.items() if len(rotations) < len(options(rotations[0]))]
    headless = [name for name, rotations in found.items() if all(row["index"] != name for row in rotations)]
    said = []
    if lacking:
        said.append(f"Questions with fewer rotations than options: {len(lacking)}; that flatters acc_circular.")
    if headless:
        said.append(f"Questions without their unrotated row: {len(headless)}; acc_circular leaves them out.")
    return said


RULES = TableRules(
    "mmbench",
    "MultipleChoice",
    ("acc_circular", "acc_vanilla_all"),
    Source(
        "MMBench_DEV_EN.tsv",
        "https://opencompass.openxlab.space/utils/VLMEval/MMBench_DEV_EN.tsv",
        "b6caf1133a01c6bb705cf753bb527ed8",
        4329,
    ),
    contributions,
    clusters=lambda rows: {row["index"]: question_of(row) for row in rows},
    groups=groups,
    by_group=("acc_circular",),
    check=check,
    doubts=doubts,
)

benchmark = partial(TsvBenchmark, RULES)
"""(settings, place) → the benchmark."""
