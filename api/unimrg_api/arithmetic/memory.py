"""Memory of one process that trains, by component (docs/method/arithmetic.md#memory)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.flops import SCORED_AT_ONCE, on_path, trains
from unimrg_api.arithmetic.layers import Counts, Part
from unimrg_api.spec_training import Precision, Recompute

Strategy = Literal["DDP", "ZeRO1", "ZeRO2", "ZeRO3", "FSDP2"]

WIDE = {"FP32": 4, "BF16": 4, "FP64": 8}
"""Bytes of a weight, of a gradient and of a moment."""
NARROW = {"FP32": 4, "BF16": 2, "FP64": 8}
"""Bytes of a number that matrices are multiplied with."""
BUCKET = 50_000_000
"""Numbers that DeepSpeed reduces or gathers at once; it has a bucket for each."""
ENCODING = 4
"""Tensors of the largest layer's size that a frozen encoder holds at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: float = 0
    gradients: float = 0
    moments: float = 0
    """AdamW's two, and the copy of the weights that ZeRO updates."""
    casts: float = 0
    """Copies of weights in bfloat16."""
    activations: float = 0
    """Held from the forward for the backward, and of the block that the backward computes again."""
    scores: float = 0
    """Over the vocabulary, with their gradients."""
    encoders: float = 0
    """Frozen ones, in float32."""
    buffers: float = 0
    """Of communication, and of weights that are gathered whole while their block computes."""

    @property
    def total(self) -> float:
        """Their sum."""
        return float(sum(astuple(self)))


@dataclass(frozen=True)
class Load:
    """What memory depends on beside the model."""

    counts: Counts
    """Of one forward of one process."""
    wanted: Collection[str]
    """What rows are trained to give."""
    precision: Precision
    recompute: Recompute
    processes: int
    micro_steps: int
    """Forwards of an optimiser step."""


def memory(family: FamilyArithmetic, load: Load, strategy: Strategy) -> Memory:
    """Return the memory of the largest moment of a step: where the backward begins."""
    wide, narrow = WIDE[load.precision], NARROW[load.precision]
    n = load.processes
    whole = family.parameters * wide
    trained = sum(part.parameters for part in family.parts if trains(part, load.wanted)) * wide
    multiplied = [part for part in family.parts if part.cost.weights or part.block]
    casts = narrow * sum(_matrices(part) for part in multiplied if part.tokens(load.counts)) if narrow < wide else 0
    held, scores = activations(family.parts, load), score_bytes(family.parts, load)
    encoding = max((ENCODING * 4 * encoder.widest for encoder in family.encoders), default=0)
    common = {
        # frozen encoders run before the forward, when nothing is held
        "activations": max(held, encoding - scores),
        "scores": scores,
        "encoders": 4 * sum(encoder.parameters for encoder in family.encoders),
    }
    if strategy == "DDP":
        return Memory(whole, trained, 2 * trained, casts, **common)
    if strategy in ("ZeRO1", "ZeRO2"):
        gradients = trained if strategy == "ZeRO1" else trained / n
        return Memory(whole, gradients, 3 * trained / n, casts, buffers=2 * BUCKET * wide, **common)
    largest, rest = _divided(family.parts)
    if strategy == "ZeRO3":
        gathered = (2 * largest + rest) * wide
        return Memory(whole / n, trained / n, 3 * trained / n, casts, buffers=gathered + 2 * BUCKET * wide, **common)
    # gradients stay whole between the micro-steps of a step, as they are reduced in the last one only
    gradients = trained / n + (trained if load.micro_steps > 1 else 0)
    return Memory(whole / n, gradients, 2 * trained / n, buffers=(2 * largest + rest) * narrow, **common)


def activations(parts: Sequence[Part], load: Load) -> float:
    """Bytes held for the backward, with those of the largest block where the backward computes blocks again."""
    wide, narrow = WIDE[load.precision], NARROW[load.precision]
    held = again = 0.0
    for part, passes in on_path(parts, load.wanted):
        if not passes:
            continue
        tokens, block = part.tokens(load.counts), part.block
        held += tokens * (part.cost.wide * wide + part.cost.narrow * narrow)
        if block is None:
            continue
        feed_forward = tokens * (block.feed_forward.wide * wide + block.feed_forward.narrow * narrow)
        rest = tokens * (block.rest.wide * wide + block.rest.narrow * narrow) + part.extra(load.counts) * narrow
        inputs = tokens * block.width * wide
        if load.recompute == "Nothing":
            held += part.count * (rest + feed_forward)
        elif load.recompute == "FeedForward":
            held += part.count * (rest + inputs)
            again = max(again, feed_forward)
        else:
            held += part.count * inputs
            again = max(again, rest + feed_forward)
    return held + again


def score_bytes(parts: Sequence[Part], load: Load) -> float:
    """Bytes of the scores that are held at once: their logarithms, and two gradients of these, in float32 at least; and
    in the type of the computation, as the head gives and takes them."""
    wide, narrow = WIDE[load.precision], NARROW[load.precision]
    each = 3 * wide + (2 * narrow if narrow < wide else 0)
    return sum(min(part.tokens(load.counts), SCORED_AT_ONCE) * part.vocabulary * each for part in parts)


def _matrices(part: Part) -> float:
    """Numbers of a part's matrices."""
    return part.cost.weights * (part.cost.parameters > 0 or part.vocabulary > 0) + (
        part.block.cost.weights * part.count if part.block else 0
    )


def _divided(parts: Sequence[Part]) -> tuple[float, float]:
    """Parameters of the largest block, and of all that is in no block."""
    blocks = [part.block.cost.parameters for part in parts if part.block and part.count]
    return max(blocks, default=0), sum(part.cost.parameters for part in parts)
