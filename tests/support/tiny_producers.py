"""Folders with tiny, random Depth Anything and SAM models in the form of transformers, and a random HED."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, SamConfig, SamModel

from unimrg_api.spec_maps import MapsSpec
from unimrg_trainer.preparation.producers.hed import HedModel
from unimrg_trainer.preparation.producers.registry import open_producers


def save_depth_anything(folder: Path, **changes: Any) -> DepthAnythingForDepthEstimation:
    """Write a model with random weights into `folder`, and return it."""
    backbone = {
        "model_type": "dinov2",
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 518,
        "patch_size": 14,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    }
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        **changes,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    draw(model, 1)
    with torch.no_grad():
        model.head.conv3.weight.abs_()  # else much of a random map is below zero, and cut off
    model.save_pretrained(folder)
    return model


def save_sam(folder: Path) -> SamModel:
    """Write a model with random weights into `folder`, and return it."""
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "mlp_dim": 32,
        "num_pos_feats": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "image_embedding_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    model = SamModel(config).eval()
    draw(model, 2)
    with torch.no_grad():
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(60)  # logits far from zero, as a trained model's
    model.save_pretrained(folder)
    return model


def save_hed(path: Path) -> HedModel:
    """Write a HED with random weights to a safetensors file, and return it."""
    model = HedModel().eval()
    draw(model, 3)
    save_file(model.state_dict(), path)
    return model


def draw(model: nn.Module, seed: int) -> None:
    """Draw all weights so large that what the model makes depends on what it sees."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture with some structure: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a + columns / b) for a, b in rng.uniform(3, 40, (3, 2))]
    noisy = np.stack(waves, axis=2) * 100 + 128 + rng.normal(0, 10, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale by bilinear interpolation between centres of pixels, the border repeated; the definition as loops."""
    result = np.empty((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            y = max((row + 0.5) * image.shape[0] / height - 0.5, 0)
            x = max((column + 0.5) * image.shape[1] / width - 0.5, 0)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


IMAGES = [picture(40, 60), picture(33, 21, 1), picture(80, 120, 2), picture(1, 1, 3), picture(40, 60, 4)]
DEPTH = {"depth": {"depthAnything": {"weights": "file://depth"}}}


def open_one(maps: dict[str, Any], base: Path, **keywords: Any) -> Any:
    (producer,) = open_producers(MapsSpec.model_validate(maps), base, "cpu", cache=base / "cache", **keywords)
    return producer
