"""The frozen autoencoder between pixels and the latents that OpenUni generates: its interface, and which one it is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unimrg_api.sizes.openuni import DcAeConfig, OpenUniConfig
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.dct import BlockCosine, read_measured

DC_AE = Asset(
    "dc-ae.safetensors",
    "the autoencoder dc-ae-f32c32-sana-1.1",
    "fetch mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers; "
    "`unimrg ckpt import openuni/B-512 FOLDER --file dc-ae` writes it",
)


def build_autoencoder(config: DcAeConfig) -> nn.Module:
    """Build diffusers' AutoencoderDC, in evaluation mode: its names are those of the published file."""
    from diffusers import AutoencoderDC  # takes seconds to import

    levels = len(config.widths)
    residual = levels - config.attention_levels
    blocks = ("ResBlock",) * residual + ("EfficientViTBlock",) * config.attention_levels
    scales = ((),) * residual + ((5,),) * config.attention_levels
    model: nn.Module = AutoencoderDC(
        latent_channels=config.channels,
        attention_head_dim=config.head_width,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=config.widths,
        decoder_block_out_channels=config.widths,
        encoder_layers_per_block=config.encoder_layers,
        decoder_layers_per_block=config.decoder_layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=config.scale,
    )
    return model.eval().requires_grad_(False)


class DcAe(nn.Module):
    """Pixels in [−1, 1] ↔ scaled latents. Nothing is drawn."""

    def __init__(self, config: DcAeConfig) -> None:
        super().__init__()
        self.config = config
        self.model = build_autoencoder(config)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] → latents [B, channels, H/stride, W/stride]."""
        latents: Tensor = self.model.encode(pixels, return_dict=False)[0]  # type: ignore[operator]
        return latents * self.config.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, channels, h, w] → pixels [B, 3, h·stride, w·stride], not clipped."""
        pixels: Tensor = self.model.decode(latents / self.config.scale, return_dict=False)[0]  # type: ignore[operator]
        return pixels


Codec = BlockCosine | DcAe


def open_codec(config: OpenUniConfig, assets: Path) -> Codec:
    """Build the codec that `config` names; weights are read from the folder `assets`.

    Raises UserError where the weights are missing or do not fit.
    """
    if not isinstance(config.codec, DcAeConfig):
        return BlockCosine(config.codec, read_measured())
    codec = DcAe(config.codec)
    DC_AE.load(assets, codec.model)
    return codec
