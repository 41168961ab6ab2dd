"""Costs of layers: parameters, and per token multiplications and numbers held for the backward.

Costs of a sequence of layers are added; those of equal layers are multiplied. One multiplication with the addition that
follows it is two floating-point operations, FLOPs (docs/method/arithmetic.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

ANSWERS, IMAGES = frozenset({"answers"}), frozenset({"images"})
BOTH = ANSWERS | IMAGES
"""What rows are trained to give."""


@dataclass(frozen=True)
class Cost:
    """What layers have, and what a token that goes through them costs."""

    parameters: int = 0
    weights: float = 0
    """Multiplications of a token with parameters."""
    leading: float = 0
    """Of these, those whose input needs no gradient: their backward computes that of the parameters alone."""
    others: float = 0
    """Further multiplications between tokens, but for softmax attention's."""
    wide: float = 0
    """Numbers held for the backward in the type of the parameters, where autocast computes in it: norms."""
    narrow: float = 0
    """Numbers held for the backward in the type of the computation: inputs of matrices and of activations."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in Cost.__dataclass_fields__))

    def times(self, count: int) -> Cost:
        """The costs of so many equal layers."""
        return Cost(*(getattr(self, name) * count for name in Cost.__dataclass_fields__))

    def without_parameters(self) -> Cost:
        """The same, where the parameters are those of other layers."""
        return replace(self, parameters=0)

    @property
    def multiplications(self) -> float:
        """Of a token, in the forward."""
        return self.weights + self.others


def linear(inputs: int, outputs: int, *, bias: bool = True, leading: bool = False) -> Cost:
    """A matrix; it holds its input."""
    weights = inputs * outputs
    return Cost(weights + bias * outputs, weights, leading * weights, narrow=inputs)


def parameters(count: int) -> Cost:
    """Parameters that nothing is multiplied with: embeddings, scales, biases."""
    return Cost(count)


def held(numbers: float) -> Cost:
    """Numbers that activations and products of activations hold."""
    return Cost(narrow=numbers)


def rms_norm(width: int) -> Cost:
    """Holds its input and the normalised input."""
    return Cost(width, wide=2 * width)


def layer_norm(width: int, *, affine: bool = True) -> Cost:
    """Holds its input."""
    return Cost(2 * width * affine, wide=width)


def dropout(width: int, share: float) -> Cost:
    """Holds one byte for each number."""
    return Cost(wide=width / 4 if share else 0)


@dataclass(frozen=True)
class Block:
    """One of the equal blocks of a transformer, as `recompute` divides it."""

    width: int
    """Of the tokens between blocks."""
    rest: Cost
    """All but the feed-forward network."""
    feed_forward: Cost
    last: int
    """Multiplications of the feed-forward network's last matrix, which no recomputation of it repeats."""
    queries: int = 0
    """Width of all heads' queries: a pair of tokens costs twice as many multiplications."""
    repeats_last: bool = False
    """Whether a recomputation of the block repeats the last matrix, for what follows it holds its output."""

    @property
    def cost(self) -> Cost:
        """Of the whole block."""
        return self.rest + self.feed_forward


@dataclass(frozen=True)
class Counts:
    """What one forward of the trained module computes. Numbers are means where they are planned, and whole where they
    are those of a batch."""

    tokens: float
    """Of the language model's rows."""
    pairs: float
    """(query, key) of these tokens where the query sees the key."""
    computed_tokens: float
    """With those that only fill a row or the sequence."""
    computed_pairs: float
    """Whose score is computed: under a mask also those that it hides."""
    scored: float
    """Tokens that the language model's head scores."""
    images: float = 0
    """Images that trained parts read."""
    targets: float = 0
    """Images to generate."""
    shown: float = 0
    """Tokens of targets that are not masked."""
    shown_pairs: float = 0
    """Pairs of tokens in the encoder of targets."""
    masked: float = 0
    """Tokens of targets that are learnt."""
    coded: float = 0
    """Images that the frozen codec encodes."""
    looked_at: float = 0
    """Images that a frozen vision tower reads."""
    query_copies: float = 0
    """Of the queries or outputs of tokens in attention, beyond one each, that are held."""
    key_copies: float = 0
    """Of their keys, and of their values."""
    mask: float = 0
    """Numbers of attention masks, which every layer holds."""

    def computed(self) -> Counts:
        """The same with everything that fills rows and is hidden by masks."""
        return replace(self, tokens=self.computed_tokens, pairs=self.computed_pairs)


@dataclass(frozen=True)
class Part:
    """Layers that the same tokens go through, under one name in reports."""

    name: str
    cost: Cost
    """Outside blocks."""
    tokens: Callable[[Counts], float] = lambda counts: 0
    """How many tokens go through it."""
    block: Block | None = None
    count: int = 0
    """Blocks."""
    pairs: Callable[[Counts], float] = lambda counts: 0
    """Pairs of tokens that its attention scores."""
    extra: Callable[[Counts], float] = lambda counts: 0
    """Numbers in the type of the computation that each block holds for the backward beside those of its cost."""
    serves: frozenset[str] = BOTH
    """What it is trained for."""
    vocabulary: int = 0
    """Of the head that scores tokens."""

    @property
    def parameters(self) -> int:
        """All of its parameters."""
        return self.cost.parameters + (self.block.cost.parameters * self.count if self.block else 0)


def attention(width: int, keys: int, *, biases: tuple[bool, bool]) -> Cost:
    """Projections and held tensors of attention; `keys` is the width of all keys, `biases` are those of queries, keys
    and values, and of the output."""
    inner = linear(width, width + 2 * keys, bias=biases[0])
    return inner + held(width + 2 * keys) + linear(width, width, bias=biases[1])


def gated_feed_forward(width: int, inner: int) -> Cost:
    """SwiGLU without biases: gate, its SiLU and the other half are held besides the matrices' inputs."""
    return linear(width, 2 * inner, bias=False) + held(3 * inner) + linear(inner, width, bias=False)


def feed_forward(width: int, inner: int) -> Cost:
    """Two matrices around an activation, which holds its input."""
    return linear(width, inner) + held(inner) + linear(inner, width)
