"""How the rows of a micro-step are laid out for the language model, and how attention between them is computed."""

from __future__ import annotations

from enum import StrEnum


class Composition(StrEnum):
    """All give the same losses and gradients, up to rounding, where dropout is off."""

    OFFICIAL = "Official"
    """As published: every row is a sequence of its own, padded to the longest, and reads its image by itself."""
    GROUPED = "PackedGrouped"
    """One packed sequence (`packed.py`). Chunks of equal form attend together, to the gathered keys of their prefix and
    their own."""
    FLEX = "PackedFlex"
    """One packed sequence, under FlexAttention with a block mask. On a CPU it has no backward."""

    @classmethod
    def chosen(cls, name: str, *, flex: bool) -> Composition:
        """Return the composition that a job names; `Packed` is FLEX where it can be compiled, GROUPED elsewhere."""
        return cls(name) if name != "Packed" else cls.FLEX if flex else cls.GROUPED

    @property
    def packed(self) -> bool:
        """Whether rows stand in one sequence and share prefixes."""
        return self is not Composition.OFFICIAL
