"""RealWorldQA as VLMEvalKit has it: multiple choice about photographs, the share of right answers.

The authors' own file has free answers besides; a reply to a row without options is not guessed at
(docs/decisions/0052-rows-without-options-are-refused.md).
"""

from __future__ import annotations

from functools import partial

from unimrg_trainer.evaluation.benchmarks.tsv import Source, TableRules, TsvBenchmark

RULES = TableRules(
    "realWorldQa",
    "MultipleChoice",
    ("acc",),
    Source(
        "RealWorldQA.tsv",
        "https://opencompass.openxlab.space/utils/VLMEval/RealWorldQA.tsv",
        "4de008f55dc4fd008ca9e15321dc44b7",
        765,
    ),
)

benchmark = partial(TsvBenchmark, RULES)
"""(settings, place) → the benchmark."""
