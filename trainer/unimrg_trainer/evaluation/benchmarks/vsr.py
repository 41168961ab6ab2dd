"""VSR, zero-shot split: is what a sentence says about two things' places true of the image?

`acc` is the share of right answers. `precision`, `recall` and `f1` are those of Yes, as VLMEvalKit computes them: a
reply that says neither counts as No there, and as wrong in `acc`. All four are in percent; VLMEvalKit's `f1_score` is
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from unimrg_trainer.evaluation.benchmarks.tsv import Source, TableRules, TsvBenchmark, categories_of
from unimrg_trainer.evaluation.vlmevalkit.replies import Reply


def precision_and_recall(replies: Sequence[Reply]) -> dict[str, float]:
    """Return precision, recall and F1 of Yes, in percent; 0 where nothing is divided by."""
    said = [reply for reply in replies if reply.extracted == "Yes"]
    true = [reply for reply in replies if reply.row["answer"] == "Yes"]
    hits = sum(reply.right for reply in said)
    precision = hits / len(said) if said else 0.0
    recall = hits / len(true) if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": 100 * precision, "recall": 100 * recall, "f1": 100 * f1}


RULES = TableRules(
    "vsr",
    "YesNo",
    ("acc",),
    Source(
        "VSR-zeroshot.tsv",
        "https://huggingface.co/datasets/ignoreandfly/vsr_zeroshot_tsv/resolve/main/vsr_zeroshot_dataset_yn_strict.tsv",
        "5ff5e49908ac1cfad35c60b92b001aeb",
        1222,
    ),
    groups=lambda row: [*([row["relation"]] if "relation" in row else []), *categories_of(row)],
    further=precision_and_recall,
)

benchmark = partial(TsvBenchmark, RULES)
"""(settings, place) → the benchmark."""
