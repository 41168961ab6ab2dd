"""Costs of OpenUni (docs/method/openuni.md)."""

from __future__ import annotations

from dataclasses import replace

from unimrg_api.arithmetic.encoders import convolution, dc_ae_decoder, dc_ae_encoder, vision_transformer
from unimrg_api.arithmetic.families.base import TOWER_AT_ONCE, Encoder, FamilyArithmetic
from unimrg_api.arithmetic.families.qwen2 import language_model
from unimrg_api.arithmetic.layers import (
    ANSWERS,
    IMAGES,
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
    rms_norm,
)
from unimrg_api.arithmetic.rows import Forward, Rows, Span
from unimrg_api.sizes.openuni import DcAeConfig, OpenUniConfig, SanaConfig

TIME_FEATURES = 256
EXPANSION = 2.5
"""Of SANA's feed-forward network, as diffusers builds it."""


def parts(config: OpenUniConfig) -> list[Part]:
    """All that is trained, in the order of its computation. Images reach the language model's parameters too, but are
    not trained to where nothing else trains it."""
    width, queries = config.language.width, config.queries
    channels, height, side = config.latent_shape
    sana, latents = config.sana, height * side
    inner, caption = sana.width, sana.caption_width
    connector = Block(
        width,
        layer_norm(width).times(2) + attention(width, width, biases=(True, True)),
        feed_forward(width, config.connector.feed_forward),
        last=width * config.connector.feed_forward,
        queries=width,
    )
    times = linear(TIME_FEATURES, inner, leading=True) + held(inner) + linear(inner, inner) + held(inner)
    captions = linear(caption, inner) + held(inner) + linear(inner, inner) + rms_norm(inner)
    modulated = parameters(2 * inner) + layer_norm(inner, affine=False).times(2)
    return [
        Part("Queries", parameters(queries * width), serves=IMAGES),
        *language_model(config.language, ANSWERS),
        Part(
            "Connector",
            Cost(),
            lambda c: c.targets * queries,
            connector,
            config.connector.layers,
            lambda c: c.targets * queries**2,
            serves=IMAGES,
        ),
        Part("Connector", linear(width, caption), lambda c: c.targets * queries, serves=IMAGES),
        Part("DiffusionTransformer", captions, lambda c: c.targets * queries, serves=IMAGES),
        Part("DiffusionTransformer", times + linear(inner, 6 * inner), lambda c: c.targets, serves=IMAGES),
        Part(
            "DiffusionTransformer",
            linear(channels, inner, leading=True) + modulated + linear(inner, channels),
            lambda c: c.targets * latents,
            sana_block(sana, queries / latents),
            sana.layers,
            lambda c: c.targets * latents * queries,
            serves=IMAGES,
        ),
    ]


def sana_block(sana: SanaConfig, captions: float) -> Block:
    """A block of SANA; `captions` is the number of conditions for each token."""
    width, cross = sana.width, sana.cross_heads * sana.cross_head_width
    inner = int(EXPANSION * width)
    modulated = layer_norm(width, affine=False).times(2)  # the normalised input is held, too
    # a head's keys times values, and queries times these; both in the type of the parameters at least
    linear_attention = (
        linear(width, 3 * width, bias=False)
        + Cost(others=width * (2 * sana.head_width + 1), wide=4 * width)
        + linear(width, width)
    )
    keys = linear(width, 2 * cross)
    cross_attention = (
        linear(width, cross)
        + Cost(keys.parameters, keys.weights * captions, narrow=2 * cross * captions + width * captions)
        + held(cross)
        + linear(cross, width)
    )
    depthwise = Cost(2 * inner * (9 + 1), 2 * inner * 9, narrow=2 * inner)
    gated = linear(width, 2 * inner) + depthwise + held(5 * inner) + linear(inner, width, bias=False)
    own = parameters(6 * width) + modulated.times(2) + linear_attention + cross_attention + held(2 * width)
    return Block(width, own, gated, last=width * inner, queries=cross, repeats_last=True)


OPENING = 4
"""Tokens before the image."""


def arithmetic(config: OpenUniConfig) -> FamilyArithmetic:
    """Return what is known of an OpenUni."""

    def rows(forward: Forward) -> list[Rows]:
        opening, image, texts = Span(OPENING), Span(config.vision.tokens), forward.texts
        asked = [opening, image, Span(texts.question + texts.answer)]
        drawn = [opening, image, Span(texts.prompt), Span(config.queries)]
        generated = [Rows(forward.rows, drawn, 2, "generated")] * forward.maps
        return [*generated, *([Rows(forward.rows, asked)] if forward.answers else [])]

    def extend(forward: Forward, counts: Counts, packed: bool) -> Counts:
        targets = forward.rows * forward.maps
        looked_at = forward.rows * (forward.answers + (forward.maps > 0))
        return replace(counts, targets=targets, coded=0 if forward.prepared else targets, looked_at=looked_at)

    return FamilyArithmetic(parts(config), [_tower(config), _codec(config)], rows, extend, 0)


def _tower(config: OpenUniConfig) -> Encoder:
    vision, width = config.vision, config.language.width
    merged = 4 * vision.width
    tower = vision_transformer(vision.width, vision.layers, vision.feed_forward, vision.side**2 + 1, 2 * vision.width)
    tower += convolution(3, vision.width, vision.patch, vision.side**2)
    tower += parameters(vision.width * (vision.side**2 + 2) + 2 * merged)
    tower += Cost((merged + 1 + width + 1) * width, (merged + width) * width * vision.tokens)
    widest = (vision.side**2 + 1) * vision.feed_forward
    return Encoder("vision tower", tower, lambda c: c.looked_at, widest=widest, at_once=TOWER_AT_ONCE)


def _codec(config: OpenUniConfig) -> Encoder:
    codec, side = config.codec, config.image_size
    stored = 2 * config.latent_terms
    if not isinstance(codec, DcAeConfig):
        return Encoder("dct", Cost(), lambda c: c.coded, stored=stored)
    form = codec.attention_levels, codec.head_width, codec.channels
    encode = dc_ae_encoder(codec.widths, codec.encoder_layers, *form, side)
    decode = dc_ae_decoder(codec.widths, codec.decoder_layers, *form)
    widest = codec.widths[0] * side**2
    return Encoder("dc-ae", encode, lambda c: c.coded, decode.parameters, widest, stored=stored)
