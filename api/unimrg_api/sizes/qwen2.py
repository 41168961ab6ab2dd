"""The numbers of a Qwen2, the language model of two families."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Qwen2Config:
    """The numbers of a Qwen2 with grouped-query attention."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int = 151936
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-6
    max_positions: int = 32768
    initial_deviation: float = 0.02
    """Standard deviation of the first weights, where none are loaded."""
    tied: bool = True
    """Whether the head is the embedding."""
