"""The masked autoregressive encoder and decoder (MAR) that stand before and behind the language model.

Module names are those of published checkpoints (docs/method/harmon.md). Both halves are pre-norm ViT blocks over
[buffers | image tokens]; learned positions live on a small grid and are interpolated to the token grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.harmon.diffusion_head import DiffusionLoss

NORM_EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection in (q, k, v) order."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible_keys: Tensor | None) -> Tensor:
        """x [B, N, d]; visible_keys bool [B, 1, 1, N] or None when every key counts."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible_keys, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(batch, length, width)))
        return out


class Mlp(nn.Module):
    """Two linear layers around an exact GELU, with dropout after each."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))
        return out


class Block(nn.Module):
    """A pre-norm transformer block as in timm 0.9's vision transformer."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, mlp_ratio * width, dropout)

    def forward(self, x: Tensor, visible_keys: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), visible_keys)
        changed: Tensor = self.mlp(self.norm2(x))
        return x + changed


def interpolation_matrix(grid: int, side: int) -> Tensor:
    """Bilinear interpolation (align_corners False) from a grid² map to a side² map, as float32 [side², grid²].

    A matrix rather than an interpolation call, because the latter's backward adds in no fixed order on a GPU.
    """
    centres = ((torch.arange(side, dtype=torch.float64) + 0.5) * grid / side - 0.5).clamp(min=0)
    low = centres.floor().long().clamp(max=grid - 1)
    high = (low + 1).clamp(max=grid - 1)
    share = centres - low
    line = torch.zeros(side, grid, dtype=torch.float64)
    line.scatter_add_(1, low[:, None], (1 - share)[:, None])
    line.scatter_add_(1, high[:, None], share[:, None])
    return torch.kron(line, line).float()


class MaskedAutoregressor(nn.Module):
    """Encoder E(x, mask), decoder and diffusion head; `mar.*` of a checkpoint."""

    to_tokens: Tensor

    def __init__(self, config: HarmonConfig) -> None:
        super().__init__()
        mar = config.mar
        width, places = mar.width, mar.grid**2
        self.buffer_count = mar.buffers
        self.class_emb = nn.Embedding(mar.classes, width)
        self.fake_latent = nn.Parameter(torch.empty(1, width))
        self.z_proj = nn.Linear(config.codec_channels, width)
        self.z_proj_ln = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.encoder_pos_embed_learned = nn.Parameter(torch.empty(1, mar.buffers + places, width))
        self.encoder_blocks = _blocks(mar.encoder_blocks, width, mar.heads, mar.mlp_ratio, mar.dropout)
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.empty(1, mar.buffers + places, width))
        self.decoder_blocks = _blocks(mar.decoder_blocks, width, mar.heads, mar.mlp_ratio, mar.dropout)
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, places, width))
        self.diffloss = DiffusionLoss(config)
        self.register_buffer("to_tokens", interpolation_matrix(mar.grid, config.side), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for part in (
            self.fake_latent,
            self.mask_token,
            self.encoder_pos_embed_learned,
            self.decoder_pos_embed_learned,
            self.diffusion_pos_embed_learned,
            self.class_emb.weight,
        ):
            nn.init.normal_(part, std=0.02)
        linears = [self.z_proj, self.decoder_embed]
        for blocks in (self.encoder_blocks, self.decoder_blocks):
            linears += [module for module in blocks.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _positions(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """Split learned positions into those of the buffers [b, d] and of the token grid [S, d]."""
        buffers, places = learned[0, : self.buffer_count], learned[0, self.buffer_count :]
        return buffers, self.to_tokens.to(places.dtype) @ places

    def encode(self, tokens: Tensor, places: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """E(x, mask), given only the tokens that are not masked (docs/method/harmon.md).

        tokens [B, N, C] in raster order; places int [B, N], their indices in the grid (None: all, N = S); visible bool
        [B, N], False where a token only pads a shorter row (None: none does). Returns [B, buffers + N, d].
        """
        batch = tokens.shape[0]
        at_buffers, at_tokens = self._positions(self.encoder_pos_embed_learned)
        image = self.z_proj(tokens.to(self.z_proj.weight.dtype))
        image = image + (at_tokens if places is None else functional.embedding(places, at_tokens))
        buffers = (self.fake_latent + at_buffers).expand(batch, -1, -1)
        x = self.z_proj_ln(torch.cat([buffers.to(image.dtype), image], dim=1))
        keys = (
            None if visible is None else functional.pad(visible, (self.buffer_count, 0), value=True)[:, None, None, :]
        )
        for block in self.encoder_blocks:
            x = block(x, keys)
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def decode(self, encoded: Tensor, source: Tensor, masked: Tensor) -> Tensor:
        """Fill the grid with mask tokens, decode it, and return the condition of every image token.

        encoded [B, M, d]: buffers and visible tokens; source int [B, buffers + S]: which of the B·M rows of `encoded`
        stands at each place; masked bool [B, buffers + S]: where the mask token stands instead. Returns [B, S, d].
        """
        embedded = self.decoder_embed(encoded)
        placed = functional.embedding(source, embedded.flatten(0, 1))
        x = torch.where(masked[..., None], self.mask_token.to(placed.dtype), placed)
        x = x + torch.cat(self._positions(self.decoder_pos_embed_learned))
        for block in self.decoder_blocks:
            x = block(x)
        decoded: Tensor = self.decoder_norm(x)[:, self.buffer_count :]
        return decoded + self.to_tokens.to(decoded.dtype) @ self.diffusion_pos_embed_learned[0].to(decoded.dtype)


def _blocks(count: int, width: int, heads: int, mlp_ratio: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList([Block(width, heads, mlp_ratio, dropout) for _ in range(count)])
