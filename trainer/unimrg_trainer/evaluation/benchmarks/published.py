"""The benchmarks whose tables VLMEvalKit publishes, by the name that a job gives them."""

from __future__ import annotations

from unimrg_trainer.evaluation.benchmarks import hallusionbench, mmbench, mmvp, realworldqa, vsr
from unimrg_trainer.evaluation.benchmarks.tsv import TableRules

PUBLISHED: dict[str, TableRules] = {
    module.RULES.name: module.RULES for module in (mmbench, mmvp, hallusionbench, realworldqa, vsr)
}
