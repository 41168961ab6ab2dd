"""CLIP's vision tower, through which Show-o understands images: transformers' class, frozen (docs/method/showo.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from unimrg_api.sizes.showo import ClipConfig
from unimrg_trainer.maps.geometry import check_image
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.pixels import AT_ONCE

CLIP = Asset(
    "clip-vit-large-patch14-336.safetensors",
    "CLIP's vision tower",
    "fetch openai/clip-vit-large-patch14-336 and write it with `unimrg ckpt import showo/CLIP-512 FOLDER --file clip`",
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in [0, 1], as CLIP was trained."""


def build_tower(config: ClipConfig) -> CLIPVisionModel:
    """Build the tower, in evaluation mode, without gradients."""
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            attn_implementation="sdpa",
        )
    )
    return tower.eval().requires_grad_(False)


def open_tower(config: ClipConfig, assets: Path) -> CLIPVisionModel:
    """Build the tower with its pretrained weights from the folder `assets`, or with those of the configured seed.

    Raises UserError where the weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tower = build_tower(config)
    if config.pretrained:
        CLIP.load(assets, tower)
    return tower


@torch.no_grad()
def features(tower: CLIPVisionModel, images: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] on the tower's device → float32 [B, patches, width]: the last but one layer, without class."""
    mean, deviation = (torch.tensor(of, device=images.device) for of in (MEAN, DEVIATION))
    found = [torch.zeros(0, tower.embeddings.num_patches, tower.config.hidden_size, device=images.device)]
    for part in torch.split(images, AT_ONCE) if len(images) else ():
        pixels = ((part.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
        found.append(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
    return torch.cat(found)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter side to `size` (bicubic) and cut out the middle: uint8 [H, W, 3] → [size, size, 3]."""
    check_image(image, size)
    height, width = image.shape[:2]
    short = min(height, width)
    scaled = (width * size // short, height * size // short)
    if scaled != (width, height):
        image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(scaled, Image.Resampling.BICUBIC))
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
