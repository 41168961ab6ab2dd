"""Costs of Qwen2, the language model of two families."""

from __future__ import annotations

from unimrg_api.arithmetic.layers import (
    Block,
    Part,
    gated_feed_forward,
    grouped_attention,
    linear,
    parameters,
    rms_norm,
)
from unimrg_api.sizes.qwen2 import Qwen2Config


def language_model(config: Qwen2Config, serves: frozenset[str]) -> list[Part]:
    """The embedding, the layers with the last norm, and the head, which only scored tokens go through."""
    width, vocabulary = config.width, config.vocabulary
    attention = grouped_attention(width, config.heads, config.key_value_heads, biases=(True, False))
    block = Block(
        width,
        rms_norm(width).times(2) + attention,
        gated_feed_forward(width, config.feed_forward),
        last=width * config.feed_forward,
        queries=width,
    )
    head = linear(width, vocabulary, bias=False)
    return [
        Part("embedding", parameters(width * vocabulary), serves=serves),
        Part(
            "language model",
            rms_norm(width),
            lambda counts: counts.tokens,
            block,
            config.layers,
            lambda counts: counts.pairs,
            lambda counts: counts.copies * width + counts.mask,
            serves=serves,
        ),
        Part(
            "head",
            head.without_parameters() if config.tied else head,
            lambda counts: counts.scored,
            serves=serves,
            vocabulary=vocabulary,
        ),
    ]
