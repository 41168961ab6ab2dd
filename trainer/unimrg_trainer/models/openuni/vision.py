"""InternVL3's vision tower: pixels to the tokens that its language model reads (docs/method/openuni.md).

Written from the published description; module names are those of OpenGVLab's checkpoints (`vision_model.*`, `mlp1.*`).
It is frozen and always runs in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.openuni import VisionConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
EPSILON = 1e-6


class Embeddings(nn.Module):
    """Patches and a class token, with learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(1, 1, config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.position_embedding = nn.Parameter(torch.randn(1, config.side**2 + 1, config.width))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(pixels), -1, -1), patches], dim=1) + self.position_embedding


class Attention(nn.Module):
    """Multi-head attention with one projection to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Norm and attention, norm and feed-forward; both scaled per channel before they are added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPSILON)
        self.attn = Attention(config.width, config.heads)
        self.ls1 = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.norm2 = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp = FeedForward(config.width, config.feed_forward)
        self.ls2 = nn.Parameter(torch.full((config.width,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        fed: Tensor = self.mlp(self.norm2(x))
        return x + self.ls2 * fed


class Encoder(nn.Module):
    """The layers, without a norm behind them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionModel(nn.Module):
    """The vision transformer: pixels [B, 3, H, H] → [B, 1 + patches, width], the class token first."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, pixels: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(self.embeddings(pixels))
        return encoded


class VisionTower(nn.Module):
    """The frozen understanding encoder: `vision_model.*` and `mlp1.*` of InternVL3."""

    def __init__(self, config: VisionConfig, width: int) -> None:
        """`width` is the language model's."""
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        merged = 4 * config.width
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width))
        self.eval().requires_grad_(False)

    def resize(self, pixels: Tensor) -> Tensor:
        """Bring squares [B, 3, S, S] to the tower's size: bilinear, corners not aligned, without antialiasing."""
        size = (self.config.size, self.config.size)
        if pixels.shape[2:] == size:
            return pixels
        return functional.interpolate(pixels, size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, S, S] in [−1, 1] → h [B, tokens, D]; the side is brought to the tower's."""
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        seen = self.resize(((pixels + 1) / 2 - mean) / deviation)
        patches = self.vision_model(seen)[:, 1:]
        half = self.config.side // 2
        # 2 × 2 neighbours become one token: rows before columns, channels last
        blocks = patches.unflatten(1, (half, 2, half, 2)).transpose(2, 3)
        h: Tensor = self.mlp1(blocks.reshape(len(pixels), half * half, -1))
        return h


def draw_weights(tower: VisionTower, seed: int) -> None:
    """Overwrite the weights by ones that depend on `seed` alone, for where no pretrained ones exist.

    Matrices, positions and the class token are normal, with variance 1 / inputs; biases are 0.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith(".bias"):
                parameter.zero_()
