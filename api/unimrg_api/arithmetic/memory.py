"""Memory of one process that trains, by component (docs/method/arithmetic.md#memory)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from pydantic import computed_field
from pydantic.dataclasses import dataclass as section

from unimrg_api.arithmetic.families.base import FamilyArithmetic
from unimrg_api.arithmetic.flops import SCORED_AT_ONCE, Trained, on_path
from unimrg_api.arithmetic.layers import Counts, Part
from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import Precision, Recompute

STORAGE_BYTES = {"FP32": 4, "BF16": 4, "FP64": 8}
"""Bytes of a weight, of a gradient and of a moment."""
COMPUTE_BYTES = {"FP32": 4, "BF16": 2, "FP64": 8}
"""Bytes of a number that matrices are multiplied with."""
BUCKET = 50_000_000
"""Numbers that DeepSpeed reduces or gathers at once; it has a bucket for each."""
ENCODING = 4
"""Tensors of the largest layer's size that a frozen encoder holds at once."""


@section(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: float = 0
    gradients: float = 0
    moments: float = 0
    """AdamW's two, and the copy of the weights that ZeRO updates."""
    casts: float = 0
    """Copies of weights in bfloat16."""
    activations: float = 0
    """Held from the forward for the backward, and by the block that the backward computes again."""
    scores: float = 0
    """Over the vocabulary, with their gradients."""
    encoders: float = 0
    """Frozen ones, in float32."""
    buffers: float = 0
    """Of communication; gradients before they are added; weights that are whole while their block computes."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> float:
        """Their sum."""
        return float(sum(astuple(self)))


@dataclass(frozen=True)
class Load:
    """What memory depends on beside the model."""

    counts: Counts
    """Of one forward of one process."""
    trained: Trained
    precision: Precision
    recompute: Recompute
    processes: int
    micro_steps: int
    """Forwards of an optimiser step."""


def memory(family: FamilyArithmetic, load: Load, strategy: StrategyName) -> Memory:
    """Return the memory of a step at its peak."""
    wide, narrow = STORAGE_BYTES[load.precision], COMPUTE_BYTES[load.precision]
    n = load.processes
    whole = family.parameters * wide
    trained = sum(part.parameters for part in family.parts if part in load.trained) * wide
    multiplied = [part for part in family.parts if part.cost.weights or part.block]
    casts = narrow * sum(_matrices(part) for part in multiplied if part.tokens(load.counts)) if narrow < wide else 0
    held, scores, pending = peak(family, load)
    common = {
        "activations": held,
        "scores": scores,
        "encoders": 4 * sum(encoder.parameters for encoder in family.encoders),
    }
    if strategy == "DDP":
        return Memory(whole, trained, 2 * trained, casts, buffers=pending, **common)
    pending += 2 * BUCKET * wide if strategy != "FSDP2" else 0
    if strategy in ("ZeRO1", "ZeRO2"):
        gradients = trained if strategy == "ZeRO1" else trained / n
        return Memory(whole, gradients, 3 * trained / n, casts, buffers=pending, **common)
    largest, rest = _divided(family.parts)
    if strategy == "ZeRO3":
        buffers = pending + (2 * largest + rest) * wide
        return Memory(whole / n, trained / n, 3 * trained / n, casts, buffers=buffers, **common)
    # gradients stay whole between the micro-steps of a step, as they are reduced in the last one only
    gradients = trained / n + (trained if load.micro_steps > 1 else 0)
    buffers = pending + (2 * largest + rest) * narrow
    return Memory(whole / n, gradients, 2 * trained / n, buffers=buffers, **common)


def peak(family: FamilyArithmetic, load: Load) -> tuple[float, float, float]:
    """Return the bytes of activations, of scores, and of gradients that are not added yet, where their sum is largest.

    The backward goes through the parts from the last to the first. At each, what it and those before it hold is there,
    and one of its blocks is whole, if it is computed again. The gradient of a vocabulary's matrix waits for the
    embedding's, at the end, where they are one.
    """
    wide = STORAGE_BYTES[load.precision]
    head = next(part for part in family.parts if part.vocabulary)
    matrix = head.cost.weights * wide * (head in load.trained)
    tied = head.parameters == 0
    # frozen encoders run before the forward, when nothing is held; at the end of the backward nothing is held either
    layers = [one.widest * min(one.images(load.counts), one.at_once) for one in family.encoders]
    candidates = [(ENCODING * 4 * max(layers, default=0.0), 0.0, 0.0)]
    # the embedding's gradient, or the head's, the embedding's and their sum
    candidates.append((0.0, 0.0, matrix * (3 if tied else 1)))
    held, before_head = 0.0, True
    for part, passes in on_path(family.parts, load.trained):
        kept, again = _held(part, load) if passes else (0.0, 0.0)
        held += kept
        scores = score_bytes(part, load)
        before_head = before_head and part is not head
        candidates.append((held + again, scores, matrix * (part is head or (tied and before_head))))
    return max(candidates, key=sum)


def _held(part: Part, load: Load) -> tuple[float, float]:
    """Bytes that a part holds for the backward, and those of one of its blocks that the backward computes again."""
    wide, narrow = STORAGE_BYTES[load.precision], COMPUTE_BYTES[load.precision]
    tokens, block = part.tokens(load.counts), part.block
    kept = tokens * (part.cost.wide * wide + part.cost.narrow * narrow)
    if block is None:
        return kept, 0
    feed_forward = tokens * (block.feed_forward.wide * wide + block.feed_forward.narrow * narrow)
    rest = tokens * (block.rest.wide * wide + block.rest.narrow * narrow) + part.extra(load.counts) * narrow
    inputs = tokens * block.width * wide
    if load.recompute == "Nothing":
        return kept + part.count * (rest + feed_forward), 0
    if load.recompute == "FeedForward":
        return kept + part.count * (rest + inputs), feed_forward
    return kept + part.count * inputs, rest + feed_forward


def score_bytes(part: Part, load: Load) -> float:
    """Bytes of the scores that are held at once: their logarithms, and two gradients of these, in float32 at least; and
    in the type of the computation, as the head gives and takes them."""
    wide, narrow = STORAGE_BYTES[load.precision], COMPUTE_BYTES[load.precision]
    each = 3 * wide + (2 * narrow if narrow < wide else 0)
    return min(part.tokens(load.counts), SCORED_AT_ONCE) * part.vocabulary * each


def _matrices(part: Part) -> float:
    """Numbers of a part's matrices."""
    return part.cost.weights * (part.cost.parameters > 0 or part.vocabulary > 0) + (
        part.block.cost.weights * part.count if part.block else 0
    )


def _divided(parts: Sequence[Part]) -> tuple[float, float]:
    """Parameters of the largest block, and of all that is in no block."""
    blocks = [part.block.cost.parameters for part in parts if part.block and part.count]
    return max(blocks, default=0), sum(part.cost.parameters for part in parts)
