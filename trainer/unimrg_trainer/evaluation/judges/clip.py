"""GenEval's judge of colours: CLIP, which compares what is inside an object's mask with ten descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from unimrg_trainer.evaluation.geneval import COLOURS
from unimrg_trainer.evaluation.judges.base import Found
from unimrg_trainer.evaluation.judges.pictures import standardised
from unimrg_trainer.preparation.producers.weights import Weights

GREY = 0x99
"""Of what is outside the mask."""
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


class Clip:
    """The judge `clip`, of colours. Needs `tokenizer.json` beside its weights."""

    name = "clip"

    def __init__(self, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device
        self._descriptions: dict[str, Tensor] = {}

    def identity(self) -> dict[str, str]:
        """Return the SHA-256 of the weights."""
        return {"colours": self.name, "colours_sha256": self._weights.digest()}

    @torch.inference_mode()
    def colours(self, image: np.ndarray, objects: Sequence[Found], name: str) -> list[str]:
        """Return the colour of each object of an image, uint8 [H, W, 3]."""
        if not objects:
            return []
        side: int = self._model.config.vision_config.image_size
        pixels = torch.stack([standardised(centre_square(cut_out(image, one), side)) for one in objects])
        model = self._model
        seen = model.visual_projection(model.vision_model(pixel_values=pixels.to(self._device)).pooler_output)
        likeness = normalize(seen, dim=-1) @ self._described(name).T
        return [COLOURS[index] for index in likeness.argmax(dim=-1).tolist()]

    def _described(self, name: str) -> Tensor:
        """Return the direction of each colour for objects of a class, [10, D]: the mean over the templates."""
        if name not in self._descriptions:
            rows = [
                normalize(torch.stack([self._text(one.format(colour=colour, name=name)) for one in TEMPLATES]), dim=-1)
                for colour in COLOURS
            ]
            self._descriptions[name] = normalize(torch.stack([row.mean(dim=0) for row in rows]), dim=-1)
        return self._descriptions[name]

    def _text(self, text: str) -> Tensor:
        tokens = torch.tensor([self._tokenizer.encode(text).ids], device=self._device)
        pooled: Tensor = self._model.text_projection(self._model.text_model(input_ids=tokens).pooler_output)[0]
        return pooled

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._weights.file("tokenizer.json")))

    @cached_property
    def _model(self) -> Any:
        from transformers import CLIPModel  # takes seconds

        return self._weights.transformer(CLIPModel, self._device)


def cut_out(image: np.ndarray, one: Found) -> np.ndarray:
    """Return the box of an object, uint8 [h, w, 3], grey where its mask is not."""
    shown = image if one.mask is None else np.where(one.mask[:, :, None], image, np.uint8(GREY))
    left, top, right, bottom = (round(value) for value in one.box[:4])
    return shown[top:bottom, left:right]


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """Return the middle of an image whose shorter side is brought to `side`, cubic: uint8 [side, side, 3]."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return scaled[top : top + side, left : left + side]
