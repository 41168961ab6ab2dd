"""Costs of Show-o (docs/method/showo.md)."""

from __future__ import annotations

import math
from dataclasses import replace

from unimrg_api.arithmetic.encoders import convolution, norm, vision_transformer, vqgan_decoder, vqgan_encoder
from unimrg_api.arithmetic.families.base import TOWER_AT_ONCE, Encoder, FamilyArithmetic
from unimrg_api.arithmetic.layers import (
    Block,
    Cost,
    Counts,
    Part,
    attention,
    feed_forward,
    held,
    layer_norm,
    linear,
    parameters,
)
from unimrg_api.arithmetic.rows import Forward, Rows, Span
from unimrg_api.sizes.showo import ClipConfig, MagvitConfig, ShowOConfig


def parts(config: ShowOConfig) -> list[Part]:
    """All that is trained, in the order of its computation."""
    phi, clip = config.language, config.clip
    width = phi.width
    # beside its input; it is made of single operations, most of which autocast runs in float32
    gelu = Cost(wide=3 * phi.feed_forward)
    block = Block(
        width,
        layer_norm(width) + attention(width, width, biases=(True, True)),
        feed_forward(width, phi.feed_forward) + gelu,
        last=width * phi.feed_forward,
        queries=width,
    )
    projector = (
        [
            Part(
                "Projector",
                linear(clip.width, width, leading=True) + held(width) + linear(width, width),
                lambda c: c.images * clip.tokens,
            )
        ]
        if clip
        else []
    )
    return [
        *projector,
        Part("LanguageModel", parameters(width * config.vocabulary)),
        Part(
            "LanguageModel",
            layer_norm(width),
            lambda c: c.tokens,
            block,
            phi.layers,
            lambda c: c.pairs,
            lambda c: (c.query_copies + 2 * c.key_copies) * width + c.mask,
        ),
        Part("LanguageModel", linear(width, config.vocabulary), lambda c: c.scored, vocabulary=config.vocabulary),
    ]


SYSTEM = 28
"""Tokens of the system sentence before an image that is asked about, in the variants with CLIP."""


def arithmetic(config: ShowOConfig) -> FamilyArithmetic:
    """Return what is known of a Show-o."""
    codes = config.clip is None

    def rows(forward: Forward) -> list[Rows]:
        texts = forward.texts
        shown = Span(config.tokens if codes else config.source_tokens, everyone=True)
        before = Span(2 + SYSTEM * config.system_prompt, everyone=codes)
        asked = [before, shown, Span(1, everyone=codes), Span(texts.question + texts.answer)]
        source = config.source_tokens
        # generations from codes share nothing unless their prompts are equally long
        read = [Span(1), Span(source + 2, full=True)] if codes else [Span(2), Span(source, everyone=True), Span(1)]
        ends = 1 if config.ends_in_block else 0
        target = [Span(1 - ends), Span(config.tokens + 2 * ends, full=True), Span(1 - ends)]
        drawn = [*read, Span(texts.prompt), *target]
        kind = Rows(forward.rows, drawn, len(read), None if codes else "generated")
        return [*[kind] * forward.maps, *([Rows(forward.rows, asked)] if forward.answers else [])]

    def extend(forward: Forward, counts: Counts, packed: bool) -> Counts:
        read, targets = forward.rows * (forward.answers + (forward.maps > 0)), forward.rows * forward.maps
        coded = 0 if forward.prepared else targets + codes * read
        return replace(
            counts, images=0 if codes else read, targets=targets, coded=coded, looked_at=0 if codes else read
        )

    encoders = [_image_tokenizer(config), *([_tower(config.clip)] if config.clip else [])]
    return FamilyArithmetic(parts(config), encoders, rows, extend, mean_masked(config))


def mean_masked(config: ShowOConfig) -> float:
    """Mean number of masked codes of a target: the mean of cos(π t / 2) is 2 / π."""
    return config.tokens * 2 / math.pi


def _image_tokenizer(config: ShowOConfig) -> Encoder:
    codes, side = config.codes, config.image_size
    stored = 2 * config.tokens
    if not isinstance(codes, MagvitConfig):
        return Encoder("blocks", Cost(), lambda c: c.coded, stored=stored)
    bits, latents = codes.bits, (side // codes.stride) ** 2
    last = convolution(bits, bits, 1, latents)
    encode = vqgan_encoder(codes.width, codes.encoder_multipliers, codes.encoder_blocks, bits, side) + last
    decode = vqgan_decoder(codes.width, codes.decoder_multipliers, codes.decoder_blocks, bits) + last
    return Encoder("magvitv2", encode, lambda c: c.coded, decode.parameters, codes.width * side**2, stored=stored)


def _tower(clip: ClipConfig) -> Encoder:
    tower = vision_transformer(clip.width, clip.layers, clip.feed_forward, clip.tokens + 1, 0)
    tower += convolution(3, clip.width, clip.patch, clip.tokens, bias=False)
    tower += parameters(clip.width * (clip.tokens + 2)) + norm(clip.width).times(2)
    widest = (clip.tokens + 1) * clip.feed_forward
    return Encoder("clip", tower, lambda c: c.looked_at, widest=widest, at_once=TOWER_AT_ONCE)
