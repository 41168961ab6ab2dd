"""Folders with tiny, random models in the forms of judges, and judges whose opinion is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from tests.support.tiny_producers import draw
from unimrg_trainer.evaluation.geneval import CLASSES, COLOURS
from unimrg_trainer.evaluation.judges.base import Found

M = TypeVar("M", bound=torch.nn.Module)
LETTERS = "abcdefghijklmnopqrstuvwxyz?-"


def save_mask2former(folder: Path, labels: int = 80) -> Mask2FormerForUniversalSegmentation:
    """Write a detector with random weights into `folder`, and return it."""
    backbone = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=6,
        num_labels=labels,
    )
    model = _drawn(lambda: Mask2FormerForUniversalSegmentation(config), 4)
    model.save_pretrained(folder)
    return model


def save_clip(folder: Path) -> CLIPModel:
    """Write a model with random weights and a tokenizer of letters into `folder`, and return it."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = _save_letters(folder, "[S]", "[E]")
    text = size | {
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": tokenizer.token_to_id("[E]"),
        "max_position_embeddings": 77,
    }
    config = CLIPConfig(text_config=text, vision_config=size | {"image_size": 32, "patch_size": 8}, projection_dim=8)
    model = _drawn(lambda: CLIPModel(config), 9)
    model.save_pretrained(folder)
    return model


def save_blip(folder: Path) -> BlipForQuestionAnswering:
    """Write a model with random weights and a tokenizer of letters into `folder`, and return it."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = _save_letters(folder, "[S]", "[E]")
    text = size | {
        "encoder_hidden_size": 16,
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id("[S]"),
        "sep_token_id": tokenizer.token_to_id("[E]"),
        "pad_token_id": 0,
        "max_position_embeddings": 64,
    }
    vision = size | {"image_size": 32, "patch_size": 8}
    model = _drawn(lambda: BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)), 6)
    model.save_pretrained(folder)
    return model


def _drawn(build: Callable[[], M], seed: int) -> M:
    """Return a model with weights that follow from the seed, those too that its class draws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().eval()
    draw(model, seed)
    return model


def _save_letters(folder: Path, start: str, end: str) -> Tokenizer:
    """Write a tokenizer that takes every letter for a token."""
    vocabulary = {token: number for number, token in enumerate(["[P]", "[U]", *LETTERS, start, end])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[U]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, vocabulary[token]) for token in (start, end)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@dataclass
class PlantedDetector:
    """Sees one object in an image: the class is the first pixel's red, its box the lower right quarter."""

    name: str = "planted"
    score: float = 0.95

    def identity(self) -> dict[str, str]:
        return {"detector": self.name}

    def detect(self, image: np.ndarray) -> Mapping[str, Sequence[Found]]:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), bool)
        mask[height // 2 :, width // 2 :] = True
        box = (width // 2, height // 2, width, height, self.score)
        return {CLASSES[image[0, 0, 0]]: [Found(box, mask)]}


@dataclass
class PlantedColours:
    """Takes the first pixel's green for the number of the colour."""

    name: str = "planted"

    def identity(self) -> dict[str, str]:
        return {"colours": self.name}

    def colours(self, image: np.ndarray, objects: Sequence[Found], name: str) -> list[str]:
        return [COLOURS[image[0, 0, 1]] for _ in objects]


@dataclass
class PlantedAnswers:
    """Says yes where the question's length is even and the image is bright."""

    name: str = "planted"
    asked: list[str] = field(default_factory=list)

    def identity(self) -> dict[str, str]:
        return {"judge": self.name}

    def answers(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        self.asked += questions
        return ["yes" if image.mean() > 127 and len(one) % 2 == 0 else " No " for one in questions]


class Kept:
    """Files that a benchmark writes, in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, path: str, content: bytes, /) -> None:
        assert path not in self.files
        self.files[path] = content


def settings_of(**changes: Any) -> dict[str, Any]:
    """Settings of GenEval and DPG-Bench as the job's defaults are."""
    return {"imagesPerPrompt": 4} | changes
