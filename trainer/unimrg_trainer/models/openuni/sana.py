"""The SANA diffusion transformer, from diffusers, able to compute in float64 (docs/method/openuni.md)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.openuni import SanaConfig
from unimrg_trainer.models.common.qwen2 import RmsNorm

CAPTION_EPSILON = 1e-5


class LinearAttention:
    """SANA's self-attention, as a processor of diffusers' `Attention`: softmax is a ReLU, in float32 at least.

    The one in diffusers always computes in float32, which makes a float64 comparison of two paths impossible, and lets
    autocast lower its sums to bfloat16.
    """

    def __call__(self, attention: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """hidden_states [B, N, width] → [B, N, width]; there is no mask."""
        projections = attention.to_q, attention.to_k, attention.to_v
        query, key, value = (part(hidden_states).unflatten(-1, (attention.heads, -1)) for part in projections)
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key, value = functional.relu(query).to(wide), functional.relu(key).to(wide), value.to(wide)
        device = query.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            summed = torch.einsum("bnhk,bnhv->bhkv", key, value)
            weights = torch.einsum("bnhk,bhk->bnh", query, key.sum(dim=1))
            mixed = torch.einsum("bnhk,bhkv->bnhv", query, summed) / (weights[..., None] + 1e-15)
        projected: Tensor = attention.to_out[0](mixed.flatten(2).to(hidden_states.dtype))
        return projected


def build_sana(config: SanaConfig, latent_shape: tuple[int, int, int]) -> nn.Module:
    """Build the transformer for latents of that shape (channels, height, width), initialised as diffusers does."""
    from diffusers import SanaTransformer2DModel  # takes seconds to import

    channels, height, _ = latent_shape
    sana: nn.Module = SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        num_layers=config.layers,
        num_cross_attention_heads=config.cross_heads,
        cross_attention_head_dim=config.cross_head_width,
        cross_attention_dim=config.width,
        caption_channels=config.caption_width,
        sample_size=height,
    )
    sana.caption_norm = RmsNorm(config.width, CAPTION_EPSILON)
    for block in sana.get_submodule("transformer_blocks").children():
        block.attn1.set_processor(LinearAttention())  # type: ignore[operator, union-attr]
    return sana


def velocity(sana: nn.Module, latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
    """v̂ [B, C, h, w] of noisy latents [B, C, h, w] at timesteps [B] (0 … 1000), given conditions [B, Q, caption]."""
    predicted: Tensor = sana(latents, encoder_hidden_states=conditions, timestep=timesteps, return_dict=False)[0]
    return predicted
