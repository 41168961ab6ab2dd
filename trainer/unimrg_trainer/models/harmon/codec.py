"""The frozen image codec between pixels and the tokens that Harmon models: its interface, and how one is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.harmon.config import HarmonConfig
from unimrg_trainer.models.harmon.dct import BlockCosine, read_measured
from unimrg_trainer.models.harmon.kl16 import Kl16

KL16_FILE = "kl16.safetensors"

ENCODED_AT_ONCE = 8
"""Images per call: an autoencoder's activations at 512 × 512 pixels take about half a gigabyte each."""


Codec = BlockCosine | Kl16
"""Pixels in [−1, 1] ↔ latents: `encode` [B, 3, H, W] → [B, channels, H/stride, W/stride], `decode` back, not clipped.
Frozen; no part of the trained module or of its checkpoints. `limit` [channels] is the absolute value that a latent
hardly ever exceeds, None where none is known."""


def open_codec(config: HarmonConfig, assets: Path) -> Codec:
    """Build the codec that `config` names; weights are read from the folder `assets`.

    Raises UserError where the weights are missing or do not fit.
    """
    path = codec_file(config, assets)
    codec = BlockCosine(config.codec_stride, read_measured()) if path is None else _open_kl16(path)
    assert (codec.stride, codec.channels) == (config.codec_stride, config.codec_channels)
    return codec


def codec_file(config: HarmonConfig, assets: Path) -> Path | None:
    """Return the file of the codec's weights, None if it has none. Raises UserError where it is missing."""
    if config.codec != "kl16":
        return None
    path = assets / KL16_FILE
    if not path.is_file():
        raise UserError(
            f"Harmon {config.variant} needs the KL-16 autoencoder, and {path} is missing",
            remedy=f"convert kl16.ckpt to safetensors and put it there as {KL16_FILE}",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return path


def _open_kl16(path: Path) -> Kl16:
    codec = Kl16()
    found = load_file(path)
    wanted = codec.state_dict()
    wrong = sorted(set(found) ^ set(wanted)) or [k for k in wanted if found[k].shape != wanted[k].shape]
    if wrong:
        raise UserError(
            f"{path} is not the KL-16 autoencoder: {len(wrong)} tensors are missing, unknown or of another shape, "
            f"e.g. {wrong[0]}",
            remedy="use the tensors under the key `model` of the published kl16.ckpt",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    codec.load_state_dict(found)
    return codec


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in [−1, 1], on the same device."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] → uint8 [B, H, W, 3]."""
    scaled = (pixels.float() * 127.5 + 128).clamp(0, 255)
    images: np.ndarray = scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return images


def encode_tokens(codec: Codec, images: Tensor) -> Tensor:
    """uint8 [B, H, H, 3] → float32 [B, tokens, channels] in raster order; images lie on the codec's device."""
    if len(images) == 0:
        return torch.zeros(0, (images.shape[1] // codec.stride) ** 2, codec.channels, device=images.device)
    parts = [codec.encode(to_pixels(part)) for part in torch.split(images, ENCODED_AT_ONCE)]
    return torch.cat(parts).flatten(2).transpose(1, 2).contiguous()


def decode_tokens(codec: Codec, tokens: Tensor, side: int) -> np.ndarray:
    """[B, side², channels] on the codec's device → uint8 [B, H, H, 3]."""
    latents = tokens.float().transpose(1, 2).reshape(len(tokens), -1, side, side)
    return np.concatenate([to_images(codec.decode(part)) for part in torch.split(latents, ENCODED_AT_ONCE)])
