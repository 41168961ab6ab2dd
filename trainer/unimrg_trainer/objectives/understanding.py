"""Understanding: a question about an image, and its answer as text (method.md §1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.objectives.records import require
from unimrg_trainer.packing.plan import Geometry


class Understanding:
    """Predict the record's answer to the record's question; nothing is drawn."""

    name = "Understanding"
    source = "questions"
    representation: str | None = None
    needs = frozenset({"image", "question", "answer"})

    def branch(self, record: Mapping[str, Any], generator: np.random.Generator) -> Branch:
        """Return the record's question and answer over the padded image."""
        require(record, self.name, self.needs)
        return Branch(record["question"], Geometry.PAD, answer=record["answer"])

    def prompt_at_inference(self) -> str:
        """Raise LookupError: the question comes with each record, there is no canonical one."""
        raise LookupError("understanding has no canonical prompt; ask the record's own question")
