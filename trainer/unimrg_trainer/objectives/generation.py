"""What the generative objectives have in common: a worded request, the squashed image, one representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.objectives.prompt_lists import Wording, draw_prompt
from unimrg_trainer.objectives.records import require
from unimrg_trainer.packing.plan import Geometry


class Generation:
    """Generate one representation of the input image; subclasses say which and how it is asked for."""

    name: str
    representation: str | None
    """The target (`targets/`) and the list of wordings (`prompts/`) go by this name."""
    canonical: str
    """The words that sampling uses (method.md §1.5)."""
    needs: frozenset[str]
    source = "images"
    default_unconditional = 0.0

    def __init__(self, wording: Wording = Wording.LIST, unconditional: float | None = None) -> None:
        """`unconditional` is the probability of the request that names nothing, in both wordings.

        The image stays in the row all the same (method.md §1.5). Raises ValueError outside 0 … 1.
        """
        self.wording = Wording(wording)
        self.unconditional = self.default_unconditional if unconditional is None else unconditional
        if not 0.0 <= self.unconditional <= 1.0:
            raise ValueError(f"a probability lies between 0 and 1, not {self.unconditional}")

    def branch(self, record: Mapping[str, Any], generator: np.random.Generator) -> Branch:
        """Return a request drawn for this row. Raises UserError if the record lacks the target."""
        require(record, self.name, self.needs)
        assert self.representation is not None
        prompt = draw_prompt(
            generator,
            self.representation,
            self.canonical,
            wording=self.wording,
            unconditional=self.unconditional,
        )
        return Branch(prompt, Geometry.SQUASH, representation=self.representation)

    def prompt_at_inference(self) -> str:
        """The words that sampling uses."""
        return self.canonical
