"""The frozen image tokenizer between pixels and codes: its interface, and how one is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimrg_api.sizes.showo import BlocksConfig, MagvitConfig
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.pixels import AT_ONCE, encode_each, to_images
from unimrg_trainer.models.showo.blocks import BlockColours
from unimrg_trainer.models.showo.magvit import Magvit

MAGVIT = Asset(
    "magvitv2.safetensors",
    "the MAGVIT-v2 image tokenizer",
    "fetch showlab/magvitv2 and write it with `unimrg ckpt import showo/CLIP-512 FOLDER --file magvitv2`",
)

ImageTokenizer = BlockColours | Magvit
"""`encode` pixels in [−1, 1] to codes in raster order, `decode` back. Frozen; no part of the trained module."""


def open_image_tokenizer(config: MagvitConfig | BlocksConfig, assets: Path) -> ImageTokenizer:
    """Build the tokenizer that `config` describes; weights are read from the folder `assets`.

    Raises UserError where the weights are missing or do not fit.
    """
    if isinstance(config, BlocksConfig):
        return BlockColours(config)
    tokenizer = Magvit(config)
    MAGVIT.load(assets, tokenizer)
    return tokenizer


def encode_images(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
    """uint8 [B, H, H, 3], B ≥ 1, on the tokenizer's device → codes int16 [B, (H/stride)²] in raster order."""
    return encode_each(tokenizer.encode, images).short()


def decode_images(tokenizer: ImageTokenizer, codes: Tensor) -> np.ndarray:
    """Codes int [B, side²] on the tokenizer's device → uint8 [B, H, H, 3]."""
    side = round(codes.shape[1] ** 0.5)
    return np.concatenate([to_images(tokenizer.decode(part, side)) for part in torch.split(codes, AT_ONCE)])
