"""Show-o behind the interface that every model family offers (models/base.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from unimrg_api.sizes.showo import MagvitConfig, ShowOConfig, config_of
from unimrg_api.spec_model import ShowOSpec
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import OnRound, RngFor, Row
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.batches import evaluation_mode
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.models.common.frozen import full_precision
from unimrg_trainer.models.common.tokenizer import TEXT_END, TINY_TOKENIZER, TextTokenizer
from unimrg_trainer.models.requests import DEFAULT_STYLE, AnswerRequest, GenerateRequest, require_size
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.codes import MAGVIT, ImageTokenizer, decode_images, encode_images, open_image_tokenizer
from unimrg_trainer.models.showo.collate import collate
from unimrg_trainer.models.showo.encodings import Use, image_encoding, picture_encoder
from unimrg_trainer.models.showo.inference import Inference
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import ShowORow, plan_row
from unimrg_trainer.models.showo.sampling import SamplingSettings
from unimrg_trainer.models.showo.template import Template
from unimrg_trainer.models.showo.vision import CLIP, features, open_tower
from unimrg_trainer.models.showo.weights import layouts
from unimrg_trainer.models.weights import Layout
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.packing.composition import Composition

TOKENIZER = Asset("phi-1.5-tokenizer.json", "Phi-1.5's tokenizer", "put the tokenizer.json of Phi-1.5 there as this")

PARTS = {"LanguageModel": ("showo.",), "Projector": ("mm_projector.",)}
"""Parts of the model, by prefixes of the names of their parameters."""


class ShowOFamily:
    """Show-o at one size. Tower and tokenizers are opened when first needed.

    `settings` is the JSON of `spec.model.showo`; defaults are filled in. The published tower and tokenizers,
    which do not ship with us, are files in `assets` (models/base.py). `config` replaces the numbers of the variant.
    """

    name = "showo"
    prompt_style = DEFAULT_STYLE

    def __init__(self, settings: Mapping[str, Any], config: ShowOConfig | None = None) -> None:
        spec = ShowOSpec.model_validate(settings)
        self.config = config or config_of(spec.variant)
        self.variant: str = self.config.variant
        self.sampling = SamplingSettings(
            spec.sampling.steps, float(spec.sampling.guidance), float(spec.sampling.temperature)
        )
        self.assets = Path()

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        return open_image_tokenizer(self.config.codes, self.assets)

    @cached_property
    def tower(self) -> CLIPVisionModel:
        assert self.config.clip is not None
        return open_tower(self.config.clip, self.assets)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        path = TINY_TOKENIZER if self.config.tokenizer == "tiny" else TOKENIZER.find(self.assets)
        ids = {TEXT_END: self.config.text_end} if path != TINY_TOKENIZER else {}
        return TextTokenizer(path, [TEXT_END], self.config.text_vocabulary, TOKENIZER.remedy, ids)

    @cached_property
    def template(self) -> Template:
        return Template(self.config, self.tokenizer)

    def needed_files(self) -> Sequence[Asset]:
        """Tokenizers and tower that are published."""
        return [
            *([TOKENIZER] if self.config.tokenizer != "tiny" else []),
            *([MAGVIT] if isinstance(self.config.codes, MagvitConfig) else []),
            *([CLIP] if self.config.clip and self.config.clip.pretrained else []),
        ]

    def build(self) -> ShowO:
        """Build the trainable module, initialised from torch's global generator, in float32, train mode."""
        return ShowO(self.config).train()

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Parts that a job may freeze, by prefixes of names."""
        return PARTS

    def frozen(self, objectives: Collection[Objective]) -> frozenset[str]:
        """Names of parameters that no objective reaches: none, text and images share all of them."""
        return frozenset()

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Weight decay for everything but biases; norms and embeddings too (docs/method/showo.md)."""
        return not name.endswith(".bias")

    def encoder_file(self) -> Asset | None:
        """The image tokenizer's, of the published sizes."""
        return MAGVIT if isinstance(self.config.codes, MagvitConfig) else None

    def reading(self, map: ImageMap | None) -> Reading:
        """A row sees codes of what it learns; of what it reads too, unless the tower reads pixels."""
        shown = [] if self.config.clip else [image_encoding(self.config, Use.SOURCE if map else Use.QUESTION)]
        targets = [picture_encoder(self.config).of_map(map)] if map else []
        return Reading([*shown, *targets], image=self.config.clip is not None)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] → codes int16 [B, (S/stride)²] on the same device; the tokenizer computes in float32."""
        with full_precision(images.device):
            return encode_images(self.image_tokenizer.to(images.device), images)

    def plan(self, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor) -> list[Row]:
        """See `rows.plan_row`: a cohort shares nothing, every row draws its own mask rate."""
        return [plan_row(self.config, self.template, objective, number, task, rng) for number, task in tasks]

    def collate(self, rows: Sequence[Row], rng: RngFor, composition: Composition = Composition.OFFICIAL) -> ShowOBatch:
        """See `collate.collate`."""
        return collate(self.config, cast(Sequence[ShowORow], rows), rng, composition)

    def prepare(self, batch: ShowOBatch, device: torch.device, dtype: torch.dtype) -> ShowOBatch:
        """Move the batch to `device` and encode there what did not come encoded, each image once, in float32."""
        moved = batch.to(device, dtype)
        codes = moved.pictures.encoded(self.encode).flatten()
        if self.config.clip:
            return replace(moved, codes=codes, features=moved.views.encoded(self._features).to(dtype))
        return replace(moved, codes=torch.cat([codes, moved.views.encoded(self.encode).flatten()]))

    def preview(self, batch: ShowOBatch) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """(input image, target) of each row of a prepared batch: decoded codes, or what the tower reads."""
        assert batch.codes is not None
        split = len(batch.pictures) * self.config.tokens
        pictures = self._decode(batch.codes[:split], self.config.tokens)
        if self.config.clip:
            views = list(batch.views.pixels.cpu().numpy())
        else:
            views = self._decode(batch.codes[split:], self.config.source_tokens)
        pools = {"pictures": pictures, "views": views}
        shown = [None if found is None else pools[found[0]][found[1]] for found in batch.conditions]
        targets = [None if target is None else pictures[target] for target in batch.targets]
        return list(zip(shown, targets, strict=True))

    def layouts(self) -> Sequence[Layout]:
        """See `weights.layouts`."""
        return layouts(self.config)

    def answer(
        self,
        module: nn.Module,
        requests: Sequence[AnswerRequest],
        *,
        max_new_tokens: int,
        on_token: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Answer each request greedily; of an image the middle is read."""
        if not requests:
            return []
        with self._inference(module) as inference:
            return inference.answer(requests, max_new_tokens=max_new_tokens, on_token=on_token)

    def generate(
        self, module: nn.Module, requests: Sequence[GenerateRequest], *, on_round: OnRound = lambda done, total: None
    ) -> list[np.ndarray]:
        """Generate an image of the model's size for each request, from its stretched image or from the prompt alone.

        Raises ValueError for a request of another size.
        """
        if not requests:
            return []
        require_size(requests, self.config.image_size, f"Show-o {self.variant}")
        with self._inference(module) as inference:
            codes = inference.generate(requests, self.sampling, on_round)
        return self._decode(codes.flatten(), self.config.tokens)

    def _features(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] → the tower's features float32 [B, n, F] on the same device."""
        with full_precision(images.device):
            return features(self.tower.to(images.device), images)

    def _decode(self, codes: Tensor, tokens: int) -> list[np.ndarray]:
        """Flat codes of images of `tokens` codes each → the images, uint8 [H, W, 3]."""
        if len(codes) == 0:
            return []
        with full_precision(codes.device):
            return list(decode_images(self.image_tokenizer.to(codes.device), codes.view(-1, tokens)))

    @contextmanager
    def _inference(self, module: nn.Module) -> Iterator[Inference]:
        """Inference with the module in evaluation mode; afterwards it is as it was."""
        assert isinstance(module, ShowO)
        with evaluation_mode(module):
            yield Inference(module, self.template, self.tokenizer, self.prepare)
