"""Costs of Qwen2, the language model of two families."""

from __future__ import annotations

from unimrg_api.arithmetic.layers import Block, Part, attention, gated_feed_forward, linear, parameters, rms_norm
from unimrg_api.sizes.qwen2 import Qwen2Config


def language_model(config: Qwen2Config, serves: frozenset[str]) -> list[Part]:
    """The embedding, the layers with the last norm, and the head, which only scored tokens go through."""
    width, vocabulary = config.width, config.vocabulary
    keys = width // config.heads * config.key_value_heads
    projected = attention(width, keys, biases=(True, False))
    block = Block(
        width,
        rms_norm(width).times(2) + projected,
        gated_feed_forward(width, config.feed_forward),
        last=width * config.feed_forward,
        queries=width,
    )
    head = linear(width, vocabulary, bias=False)
    return [
        Part("LanguageModel", parameters(width * vocabulary), serves=serves),
        Part(
            "LanguageModel",
            rms_norm(width),
            lambda counts: counts.tokens,
            block,
            config.layers,
            lambda counts: counts.pairs,
            lambda counts: counts.query_copies * width + 2 * counts.key_copies * keys + counts.mask,
            serves=serves,
        ),
        Part(
            "LanguageModel",
            head.without_parameters() if config.tied else head,
            lambda counts: counts.scored,
            serves=serves,
            vocabulary=vocabulary,
        ),
    ]
