"""The frozen image codec between pixels and the tokens that Harmon models: its interface, and how one is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.dct import BlockCosine, read_measured
from unimrg_trainer.models.common.pixels import AT_ONCE, encode_each, to_images
from unimrg_trainer.models.harmon.kl16 import Kl16

KL16 = Asset(
    "kl16.safetensors",
    "the KL-16 autoencoder",
    "write it there with `unimrg ckpt import harmon/0.5B kl16.ckpt --file kl16`",
)

COSINE = read_measured().softened(power=0.5, factor=1.2)
"""Scales of the cosine codec (docs/decisions/0023-a-tiny-base-ships.md)."""

Codec = BlockCosine | Kl16
"""Pixels in [−1, 1] ↔ latents: `encode` [B, 3, H, W] → [B, channels, H/stride, W/stride], `decode` back, not clipped.
Frozen; no part of the trained module or of its checkpoints. `limit` [channels] is the absolute value that a latent
hardly ever exceeds, None where none is known."""


def open_codec(config: HarmonConfig, assets: Path) -> Codec:
    """Build the codec that `config` names; weights are read from the folder `assets`.

    Raises UserError where the weights are missing or do not fit.
    """
    codec: Codec = Kl16() if config.codec == "kl16" else BlockCosine(config.codec_stride, COSINE)
    if config.codec == "kl16":
        KL16.load(assets, codec)
    assert (codec.stride, codec.channels) == (config.codec_stride, config.codec_channels)
    return codec


def encode_tokens(codec: Codec, images: Tensor) -> Tensor:
    """uint8 [B, H, H, 3], B ≥ 1 → float32 [B, tokens, channels] in raster order; images lie on the codec's device."""
    return encode_each(codec.encode, images).flatten(2).transpose(1, 2).contiguous()


def decode_tokens(codec: Codec, tokens: Tensor, side: int) -> np.ndarray:
    """[B, side², channels] on the codec's device → uint8 [B, H, H, 3]."""
    if len(tokens) == 0:
        return np.zeros((0, side * codec.stride, side * codec.stride, 3), dtype=np.uint8)
    latents = tokens.float().transpose(1, 2).reshape(len(tokens), -1, side, side)
    return np.concatenate([to_images(codec.decode(part)) for part in torch.split(latents, AT_ONCE)])
