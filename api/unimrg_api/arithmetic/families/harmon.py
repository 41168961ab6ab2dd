"""Costs of Harmon (docs/method/harmon.md)."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

from unimrg_api.arithmetic.encoders import convolution, vqgan_decoder, vqgan_encoder
from unimrg_api.arithmetic.families.base import Encoder, FamilyArithmetic
from unimrg_api.arithmetic.families.qwen2 import language_model
from unimrg_api.arithmetic.layers import (
    BOTH,
    IMAGES,
    Block,
    Cost,
    Counts,
    Part,
    attention,
    dropout,
    feed_forward,
    held,
    layer_norm,
    linear,
    parameters,
)
from unimrg_api.arithmetic.rows import Forward, Rows, Span
from unimrg_api.sizes.harmon import HarmonConfig, Kl16Config, MarConfig


def parts(config: HarmonConfig) -> list[Part]:
    """All that is trained, in the order of its computation."""
    mar, width, inner = config.mar, config.language.width, config.mar.width
    tokens, buffers, places = config.tokens, mar.buffers, mar.grid**2
    positions = parameters((buffers + places) * inner)
    block, head = mar_block(mar), mar.head_width
    read = buffers + tokens
    """Tokens of an image that is read or decoded."""
    to_grid = Cost(weights=tokens * places * inner, leading=tokens * places * inner)
    """Learned positions are brought to the token grid by a matrix, once for each forward that has a use for them."""
    language = language_model(config.language, BOTH)
    return [
        Part("Encoder", parameters(mar.classes * inner), serves=frozenset()),
        Part("Encoder", linear(config.codec_channels, inner, leading=True), lambda c: c.images * tokens + c.shown),
        Part("Encoder", to_grid, lambda c: 1 + (c.images > 0)),
        Part(
            "Encoder",
            parameters(inner) + positions + layer_norm(inner).times(2),
            lambda c: c.images * read + c.targets * buffers + c.shown,
            block,
            mar.encoder_blocks,
            lambda c: c.images * read**2 + c.shown_pairs,
        ),
        Part(
            "Projectors",
            linear(inner, width) + held(width) + linear(width, width),
            lambda c: c.images * read + c.targets * buffers + c.shown,
        ),
        *language,
        Part(
            "Projectors",
            linear(width, width) + held(width) + linear(width, inner),
            lambda c: c.targets * buffers + c.shown,
            serves=IMAGES,
        ),
        Part("Decoder", linear(inner, inner), lambda c: c.targets * buffers + c.shown, serves=IMAGES),
        Part("Decoder", to_grid.times(2), lambda c: c.targets > 0, serves=IMAGES),
        Part(
            "Decoder",
            parameters((1 + places) * inner) + positions + layer_norm(inner),
            lambda c: c.targets * read,
            block,
            mar.decoder_blocks,
            lambda c: c.targets * read**2,
            serves=IMAGES,
        ),
        Part(
            "DiffusionHead",
            linear(mar.time_features, head, leading=True) + held(head) + linear(head, head),
            lambda c: config.train_timesteps * (c.targets > 0),
            serves=IMAGES,
        ),
        Part("DiffusionHead", linear(inner, head), lambda c: c.masked, serves=IMAGES),
        Part(
            "DiffusionHead",
            linear(config.codec_channels, head, leading=True)
            + held(head)
            + Cost(wide=6 * config.codec_channels)  # the terms of the loss
            + modulated_norm(head, 2)
            + linear(head, 2 * config.codec_channels),
            lambda c: c.masked * config.diffusion_repeats,
            residual_block(head),
            mar.head_blocks,
            serves=IMAGES,
        ),
    ]


def mar_block(mar: MarConfig) -> Block:
    """A pre-norm block of the encoder or decoder."""
    width, inner = mar.width, mar.mlp_ratio * mar.width
    drops = dropout(width, mar.dropout)
    return Block(
        width,
        layer_norm(width).times(2) + attention(width, width, biases=(True, True)) + drops,
        feed_forward(width, inner) + dropout(inner, mar.dropout) + drops,
        last=width * inner,
        queries=width,
        repeats_last=mar.dropout > 0,
    )


def modulated_norm(width: int, modulations: int) -> Cost:
    """A norm without parameters, and the matrix from the condition to its shift, its scale and, of three, a gate."""
    matrix = linear(width, modulations * width)
    return Cost(matrix.parameters, matrix.weights) + layer_norm(width, affine=False).times(2) + held(width)


def residual_block(width: int) -> Block:
    """A block of the diffusion head: its norm has weights too, and its gate holds both sides."""
    own = parameters(2 * width) + modulated_norm(width, 3) + held(2 * width)
    return Block(width, own, feed_forward(width, width), last=width**2, repeats_last=True)


def arithmetic(config: HarmonConfig) -> FamilyArithmetic:
    """Return what is known of a Harmon."""
    masked = mean_masked(config)
    shown = config.tokens - masked

    def rows(forward: Forward) -> list[Rows]:
        opening, image = Span(OPENING), Span(config.image_slots)
        texts = forward.texts
        asked = [opening, image, Span(texts.question + texts.answer)]
        drawn = [opening, image, Span(texts.prompt), Span(config.mar.buffers + shown)]
        about = "generated" if forward.same_images else "asked"
        generated = [Rows(forward.rows, drawn, 2, "generated")] * forward.maps
        return [*generated, *([Rows(forward.rows, asked, 2, about)] if forward.answers else [])]

    def extend(forward: Forward, counts: Counts, packed: bool) -> Counts:
        targets = forward.rows * forward.maps
        own = forward.answers and not (forward.same_images and forward.maps)
        # different ones: the image, and what is learnt
        pictures = (1 + forward.maps - forward.copies) * (forward.maps > 0)
        encoded = forward.rows * (own + (forward.maps > 0)) if packed else targets + forward.rows * forward.answers
        return replace(
            counts,
            images=encoded,
            targets=targets,
            shown=targets * shown,
            shown_pairs=targets * (config.mar.buffers + shown) ** 2,
            masked=targets * masked,
            coded=0 if forward.prepared else forward.rows * (own + pictures),
        )

    return FamilyArithmetic(parts(config), [_codec(config)], rows, extend, 0)


OPENING = 3
"""Tokens before the image."""


def mean_masked(config: HarmonConfig) -> float:
    """Mean number of masked tokens of a target."""
    normal = NormalDist(config.mask_mean, config.mask_deviation)
    low, high = config.mask_minimum, 1.0
    inside = normal.cdf(high) - normal.cdf(low)
    if inside <= 0:
        return config.tokens * low
    rate = normal.mean + normal.variance * (normal.pdf(low) - normal.pdf(high)) / inside
    return config.tokens * rate + 0.5  # it is rounded up


def _codec(config: HarmonConfig) -> Encoder:
    stored = 2 * config.tokens * config.codec_channels
    if config.codec != "kl16":
        return Encoder(config.codec, Cost(), lambda c: c.coded, stored=stored)
    kl16, side = Kl16Config(), config.image_size
    levels, latents = len(kl16.multipliers), (config.image_size // kl16.stride) ** 2
    moments = 2 * kl16.latent_channels
    encode = vqgan_encoder(
        kl16.width, kl16.multipliers, [kl16.encoder_blocks] * levels, moments, side, attention=True
    ) + convolution(moments, moments, 1, latents)
    decode = vqgan_decoder(kl16.width, kl16.multipliers, [kl16.decoder_blocks] * levels, kl16.latent_channels)
    decode += convolution(kl16.latent_channels, kl16.latent_channels, 1)
    return Encoder(config.codec, encode, lambda c: c.coded, decode.parameters, kl16.width * side**2, stored=stored)
