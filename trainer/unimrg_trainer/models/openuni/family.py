"""OpenUni behind the interface that every model family offers (models/base.py)."""

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

from unimrg_api.sizes.openuni import VARIANTS, DcAeConfig
from unimrg_api.spec_model import OpenUniSpec
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import OnRound, RngFor, Row
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.batches import evaluation_mode
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.models.common.frozen import full_precision
from unimrg_trainer.models.common.pixels import AT_ONCE, encode_each, to_images, to_pixels
from unimrg_trainer.models.common.tokenizer import TINY_TOKENIZER, ChatTokenizer
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.codec import DC_AE, Codec, open_codec
from unimrg_trainer.models.openuni.collate import collate
from unimrg_trainer.models.openuni.encodings import codec_encoder
from unimrg_trainer.models.openuni.inference import Inference, SamplingSettings
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.rows import OpenUniRow, lay_out
from unimrg_trainer.models.openuni.template import IMAGE_END, IMAGE_START, SPECIAL_IDS, Template
from unimrg_trainer.models.openuni.vision import VisionTower, draw_weights
from unimrg_trainer.models.openuni.weights import TOKENIZER, assets, layouts, vision_asset
from unimrg_trainer.models.requests import LETTER_ONLY, AnswerRequest, GenerateRequest, PromptStyle, require_size
from unimrg_trainer.models.weights import Layout
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.packing.composition import Composition

LANGUAGE_MODEL = "lmm."
"""Beginning of the names of what understanding trains; all other parameters serve generation alone."""

PARTS = {
    "LanguageModel": (LANGUAGE_MODEL,),
    "Queries": ("meta_queries",),
    "Connector": ("connector.", "projector."),
    "DiffusionTransformer": ("transformer.",),
}
"""Parts of the model, by prefixes of the names of their parameters."""


class OpenUniFamily:
    """OpenUni at one size. The frozen parts and the tokenizer are opened when first needed.

    `settings` is the JSON of `spec.model.openuni`; defaults are filled in. Files that do not ship with us are in
    `assets` (models/base.py).
    """

    name = "openuni"
    prompt_style = PromptStyle(
        "internvlchat",
        LETTER_ONLY,
        {"hallusionBench": " Please answer yes or no. Answer the question using a single word or phrase."},
        labels=False,
    )

    def __init__(self, settings: Mapping[str, Any]) -> None:
        spec = OpenUniSpec.model_validate(settings)
        self.variant: str = spec.variant
        self.config = VARIANTS[spec.variant]()
        self.sampling = SamplingSettings(spec.sampling.steps, float(spec.sampling.guidance))
        self.assets = Path()

    @cached_property
    def codec(self) -> Codec:
        return open_codec(self.config, self.assets)

    @cached_property
    def tower(self) -> VisionTower:
        tower = VisionTower(self.config.vision, self.config.language.width)
        if self.config.vision.seed is None:
            vision_asset(self.variant).load(self.assets, tower)
        else:
            draw_weights(tower, self.config.vision.seed)
        return tower

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        limit = self.config.language.vocabulary
        if self.config.tokenizer == "tiny":
            return ChatTokenizer(TINY_TOKENIZER, limit, TOKENIZER.remedy)
        return ChatTokenizer(TOKENIZER.find(self.assets), limit, TOKENIZER.remedy, SPECIAL_IDS)

    @cached_property
    def template(self) -> Template:
        tokenizer = self.tokenizer
        if self.config.tokenizer == "tiny":  # it has no such tokens: they are the ids behind its own
            marks = tokenizer.size, tokenizer.size + 1
        else:
            marks = tokenizer.special(IMAGE_START), tokenizer.special(IMAGE_END)
        return Template(self.config, tokenizer, marks)

    def needed_files(self) -> Sequence[Asset]:
        """See `weights.assets`."""
        return assets(self.config)

    def build(self) -> OpenUni:
        """Build the trainable module, initialised from torch's global generator, in float32, train mode."""
        return OpenUni(self.config).train()

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Parts that a job may freeze, by prefixes of names."""
        return PARTS

    def frozen(self, objectives: Collection[Objective]) -> frozenset[str]:
        """Names of parameters that none of `objectives` trains.

        Where all generate, the language model is frozen, which their losses could reach: OpenUni's understanding shares
        nothing else with generation, and is kept as it is unless it is trained too (docs/method/openuni.md).
        """
        answers = any(objective.map is None for objective in objectives)
        generates = any(objective.map is not None for objective in objectives)
        with torch.device("meta"):
            names = [name for name, _ in OpenUni(self.config).named_parameters()]
        return frozenset(name for name in names if not (answers if name.startswith(LANGUAGE_MODEL) else generates))

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Weight decay for everything but vectors."""
        return parameter.ndim > 1

    def encoder_file(self) -> Asset | None:
        """The codec's, of the published sizes."""
        return DC_AE if isinstance(self.config.codec, DcAeConfig) else None

    def reading(self, map: ImageMap | None) -> Reading:
        """The vision tower reads pixels; of a map a row sees latents of the codec alone."""
        return Reading([] if map is None else [codec_encoder(self.config).of_map(map)])

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, H, H, 3] → latents float16 [B, C, h, w] on the same device; the codec computes in float32."""
        codec = self.codec.to(images.device)
        with full_precision(images.device):
            return encode_each(codec.encode, images).half()

    def plan(self, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor) -> list[Row]:
        """See `rows.lay_out`: a cohort shares nothing, and nothing is drawn."""
        return [lay_out(self.config, self.template, objective, number, task) for number, task in tasks]

    def collate(
        self, rows: Sequence[Row], rng: RngFor, composition: Composition = Composition.OFFICIAL
    ) -> OpenUniBatch:
        """See `collate.collate`."""
        return collate(self.config, cast(Sequence[OpenUniRow], rows), rng, composition)

    def prepare(self, batch: OpenUniBatch, device: torch.device, dtype: torch.dtype) -> OpenUniBatch:
        """Move the batch to `device`, and run vision tower and codec there, each once per image, in float32; the codec
        on what did not come encoded."""
        moved = batch.to(device, dtype)
        features = torch.cat([images.encoded(self._features) for images in (moved.tiles, moved.squares)])
        return replace(moved, features=features, latents=moved.pictures.encoded(self.encode))

    def preview(self, batch: OpenUniBatch) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """Of each row: the image as the vision tower sees it, and its target, decoded from its latents."""
        assert batch.latents is not None, "the batch was not prepared"
        read = [*batch.tiles.pixels, *batch.squares.pixels]
        seen = [to_images(self.tower.resize(to_pixels(image[None])))[0] for image in read]
        decoded = [self._decode(latents[None])[0] for latents in batch.latents]
        targets = dict(zip(batch.target_rows, batch.targets.tolist(), strict=True))
        return [
            (None if image is None else seen[image], decoded[targets[row]] if row in targets else None)
            for row, image in enumerate(batch.image_of_row)
        ]

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
        """Answer each request greedily; an image is stretched to one square of the tower's size."""
        with self._inference(module) as inference:
            return inference.answer(requests, max_new_tokens=max_new_tokens, on_token=on_token)

    def generate(
        self, module: nn.Module, requests: Sequence[GenerateRequest], *, on_round: OnRound = lambda done, total: None
    ) -> list[np.ndarray]:
        """Generate an image of the model's size for each request, from its squashed image or from the prompt alone.

        Raises ValueError for a request of another size.
        """
        require_size(requests, self.config.image_size, f"OpenUni {self.variant}")
        with self._inference(module) as inference:
            latents = inference.generate(requests, self.sampling, on_round)
        return list(self._decode(latents))

    def _features(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3], B ≥ 1 → h float32 [B, K, D] on the same device."""
        tower = self.tower.to(images.device)
        with full_precision(images.device):
            return torch.cat([tower(to_pixels(part)) for part in torch.split(images, AT_ONCE)])

    def _decode(self, latents: Tensor) -> np.ndarray:
        """[B, C, h, w] → uint8 [B, H, H, 3]."""
        codec = self.codec.to(latents.device)
        with full_precision(latents.device):
            return np.concatenate([to_images(codec.decode(part.float())) for part in torch.split(latents, AT_ONCE)])

    @contextmanager
    def _inference(self, module: nn.Module) -> Iterator[Inference]:
        """Inference with the module in evaluation mode; afterwards it is as it was."""
        assert isinstance(module, OpenUni)
        with evaluation_mode(module):
            yield Inference(module, self.template, self.tokenizer, self._features)
