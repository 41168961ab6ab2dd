"""Floating-point operations of a forward with its backward (docs/method/arithmetic.md#operations)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields

from pydantic import computed_field
from pydantic.dataclasses import dataclass as section

from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.layers import Counts, Part
from unimrg_api.spec_training import Recompute

SCORED_AT_ONCE = 1024
"""Tokens whose scores over the vocabulary are held at a time: 600 MB in float32 over 150,000 of them."""


@section(frozen=True)
class Flops:
    """Floating-point operations."""

    forward: float = 0
    backward: float = 0
    repeated: float = 0
    """Parts of the forward that the backward computes again."""
    frozen: float = 0
    """Of encoders that are never trained, and run without a backward."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def useful(self) -> float:
        """What the computation needs: the basis of MFU."""
        return self.forward + self.backward + self.frozen

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> float:
        """What the device computes: the basis of HFU, where the counts are those of what is computed."""
        return self.useful + self.repeated

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, name) + getattr(other, name) for name in _COUNTS))

    def times(self, count: float) -> Flops:
        """Those of so many equal computations."""
        return Flops(*(getattr(self, name) * count for name in _COUNTS))


_COUNTS = [field.name for field in fields(Flops)]


@dataclass(frozen=True)
class Trained:
    """Which parts a job trains: `part in trained`."""

    wanted: Collection[str]
    """What rows are trained to give: ANSWERS, IMAGES."""
    frozen: Collection[str] = ()
    """Names of parts that the job freezes."""

    def __contains__(self, part: Part) -> bool:
        return not part.serves.isdisjoint(self.wanted) and part.name not in self.frozen


def flops(family: FamilyArithmetic, counts: Counts, trained: Trained, recompute: Recompute) -> Flops:
    """Return the operations of one forward and its backward, frozen encoders before it included.

    A part behind the first one that is trained passes gradients on, trained or not; one before it has no backward.
    """
    result = Flops(frozen=sum(2 * one.cost.multiplications * one.images(counts) for one in family.encoders))
    for part, passes in on_path(family.parts, trained):
        result += _of_part(part, counts, recompute, trained=part in trained, passes=passes)
    return result


def on_path(parts: Sequence[Part], trained: Trained) -> Iterator[tuple[Part, bool]]:
    """Yield each part with whether a gradient passes it."""
    passes = False
    for part in parts:
        passes = passes or part in trained
        yield part, passes


def _of_part(part: Part, counts: Counts, recompute: Recompute, *, trained: bool, passes: bool) -> Flops:
    tokens, pairs = part.tokens(counts), part.pairs(counts)
    block, cost = part.block, part.cost
    scores = repeated = 0.0
    if block is not None:
        cost += block.cost.times(part.count)
        scores = 2.0 * block.queries * part.count * pairs
        again = {
            "Nothing": 0.0,
            "FeedForward": block.feed_forward.multiplications - block.last,
            "Blocks": block.cost.multiplications - (0 if block.repeats_last else block.last),
        }[recompute]
        repeated = part.count * again * tokens + (scores if recompute == "Blocks" else 0)
    elif part.vocabulary and tokens > SCORED_AT_ONCE:
        repeated = cost.multiplications * tokens
    # both factors of a product of tokens have a gradient; of one with parameters, these have one only if trained
    products = scores + cost.others * tokens
    gradients = (cost.weights - cost.leading + trained * cost.weights) * tokens + 2 * products
    forward = cost.weights * tokens + products
    return Flops(2 * forward, 2 * gradients, 2 * repeated) if passes else Flops(2 * forward)
