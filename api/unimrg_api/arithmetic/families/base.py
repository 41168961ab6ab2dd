"""What arithmetic knows of a model family at one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unimrg_api.arithmetic.layers import Cost, Counts, Part
from unimrg_api.arithmetic.rows import Forward, Rows, official_counts, packed_counts

TOWER_AT_ONCE = 8
"""Images per call of a vision tower."""


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder; it computes in float32."""

    name: str
    cost: Cost
    """Multiplications of an image."""
    images: Callable[[Counts], float]
    """How many images it encodes."""
    unused: int = 0
    """Parameters that lie beside it and training does not run: a decoder's."""
    widest: int = 0
    """Numbers of the largest layer's output, of an image."""
    at_once: int = 1
    """Images of a call."""
    stored: int = 0
    """Bytes of an image's result where it is prepared with the data; 0: it never is."""

    @property
    def parameters(self) -> int:
        """All that lies in memory."""
        return self.cost.parameters + self.unused


@dataclass(frozen=True)
class FamilyArithmetic:
    """A family at one size."""

    parts: Sequence[Part]
    """All that is trained, in the order of its computation."""
    encoders: Sequence[Encoder]
    rows: Callable[[Forward], Sequence[Rows]]
    """The rows of a forward, by kind."""
    extend: Callable[[Forward, Counts, bool], Counts]
    """Adds to the language model's counts, of one composition (whether it is packed), those of the other parts."""
    learnt: float
    """Tokens of a target that the language model's head scores."""

    @property
    def parameters(self) -> int:
        """Of the trained module, frozen parts of it included."""
        return sum(part.parameters for part in self.parts)

    def counts(self, forward: Forward, *, packed: bool, stacked: bool = False) -> Counts:
        """Return what a forward computes; `stacked` as in `packed_counts`."""
        scored = forward.rows * (forward.answers * forward.texts.answer + forward.maps * self.learnt)
        rows = self.rows(forward)
        counted = packed_counts(rows, scored, stacked=stacked) if packed else official_counts(rows, scored)
        return self.extend(forward, counted, packed)
