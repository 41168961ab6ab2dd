"""Costs of encoders that are never trained: autoencoders and vision transformers.

Here the multiplications of a `Cost` are those of a whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

from unimrg_api.arithmetic.layers import Cost, parameters

ZERO = Cost()


def convolution(inputs: int, outputs: int, size: int, places: int = 0, *, bias: bool = True, groups: int = 1) -> Cost:
    """A convolution whose output has so many places; none for a decoder, of which parameters alone count."""
    weights = inputs * outputs * size**2 // groups
    return Cost(weights + bias * outputs, weights * places)


def norm(channels: int) -> Cost:
    """Scale and shift of each channel."""
    return parameters(2 * channels)


def vision_transformer(width: int, layers: int, inner: int, places: int, extra: int) -> Cost:
    """Layers of attention and feed-forward network over `places` tokens; `extra` more parameters each."""
    matrices = 4 * width**2 + 2 * width * inner
    biases = 5 * width + inner
    scores = 2 * places**2 * width
    layer = Cost(matrices + biases + extra, matrices * places, others=scores) + norm(width).times(2)
    return layer.times(layers)


def _residual(inputs: int, outputs: int, places: int) -> Cost:
    both = convolution(inputs, outputs, 3, places) + convolution(outputs, outputs, 3, places)
    shortcut = convolution(inputs, outputs, 1, places) if inputs != outputs else ZERO
    return norm(inputs) + norm(outputs) + both + shortcut


def _attention(channels: int, places: int) -> Cost:
    return norm(channels) + convolution(channels, channels, 1, places).times(4) + Cost(others=2 * channels * places**2)


def _middle(channels: int, places: int) -> Cost:
    return _residual(channels, channels, places).times(2) + _attention(channels, places)


def vqgan_encoder(
    width: int, multipliers: Sequence[int], blocks: Sequence[int], outputs: int, side: int, *, attention: bool = False
) -> Cost:
    """From squares of `side` pixels; `attention` is that behind the last level's blocks."""
    total = convolution(3, width, 3, side**2)
    channels, last = width, len(multipliers) - 1
    for level, (multiplier, count) in enumerate(zip(multipliers, blocks, strict=True)):
        for _ in range(count):
            total += _residual(channels, width * multiplier, side**2)
            channels = width * multiplier
            total += _attention(channels, side**2) if attention and level == last else ZERO
        if level < last:
            side //= 2
            total += convolution(channels, channels, 3, side**2)
    return total + _middle(channels, side**2) + norm(channels) + convolution(channels, outputs, 3, side**2)


def vqgan_decoder(width: int, multipliers: Sequence[int], blocks: Sequence[int], inputs: int) -> Cost:
    """Parameters alone: training does not run it."""
    channels = width * multipliers[-1]
    total = convolution(inputs, channels, 3) + _middle(channels, 0)
    for level in reversed(range(len(multipliers))):
        for _ in range(blocks[level]):
            total += _residual(channels, width * multipliers[level], 0)
            channels = width * multipliers[level]
        total += convolution(channels, channels, 3) if level > 0 else ZERO
    return total + norm(channels) + convolution(channels, 3, 3)


def dc_ae_encoder(
    widths: Sequence[int], layers: Sequence[int], attends: int, head: int, outputs: int, side: int
) -> Cost:
    """The deep-compression autoencoder's; its lowest `attends` levels have attention."""
    total = convolution(3, widths[0], 3, side**2)
    for level, (channels, count) in enumerate(zip(widths, layers, strict=True)):
        total += _dc_block(channels, head, side**2, level >= len(widths) - attends).times(count)
        if level < len(widths) - 1:
            side //= 2
            total += convolution(channels, widths[level + 1], 3, side**2)
    return total + convolution(widths[-1], outputs, 3, side**2)


def dc_ae_decoder(widths: Sequence[int], layers: Sequence[int], attends: int, head: int, inputs: int) -> Cost:
    """Parameters alone, as of `vqgan_decoder`."""
    total = convolution(inputs, widths[-1], 3)
    for level, (channels, count) in enumerate(zip(widths, layers, strict=True)):
        total += _dc_block(channels, head, 0, level >= len(widths) - attends).times(count)
        total += convolution(widths[level + 1], channels, 3) if level < len(widths) - 1 else ZERO
    return total + norm(widths[0]) + convolution(widths[0], 3, 3)


def _dc_block(channels: int, head: int, places: int, attends: bool) -> Cost:
    if not attends:
        both = convolution(channels, channels, 3, places) + convolution(channels, channels, 3, places, bias=False)
        return both + norm(channels)
    one = convolution(channels, channels, 1, places, bias=False)
    scales = convolution(3 * channels, 3 * channels, 5, places, bias=False, groups=3 * channels)
    scales += convolution(3 * channels, 3 * channels, 1, places, bias=False, groups=3 * channels // head)
    products = Cost(
        others=4 * channels * (head + 1) * places
    )  # keys with values, and queries with these, at two scales
    attention = one.times(3 + 2) + scales + products + norm(channels)
    inner = 4 * channels
    gated = convolution(channels, 2 * inner, 1, places)
    gated += convolution(2 * inner, 2 * inner, 3, places, groups=2 * inner)
    gated += convolution(inner, channels, 1, places, bias=False) + norm(channels)
    return attention + gated
