"""Harmon behind the interface that every model family offers (models/base.py)."""

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

from unimrg_api.sizes.harmon import config_of, with_mask_rate
from unimrg_api.spec_model import HarmonSpec
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.base import OnRound, RngFor, Row
from unimrg_trainer.models.common.assets import Asset
from unimrg_trainer.models.common.batches import evaluation_mode
from unimrg_trainer.models.common.encodings import Reading
from unimrg_trainer.models.common.frozen import full_precision
from unimrg_trainer.models.common.tokenizer import QWEN_IDS, TINY_TOKENIZER, ChatTokenizer
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.codec import KL16, Codec, decode_tokens, encode_tokens, open_codec
from unimrg_trainer.models.harmon.collate import collate
from unimrg_trainer.models.harmon.encodings import Geometry, codec_encoder, image_encoding
from unimrg_trainer.models.harmon.inference import Inference
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.rows import HarmonRow, plan_cohort
from unimrg_trainer.models.harmon.sampling import SamplingSettings
from unimrg_trainer.models.harmon.template import Template
from unimrg_trainer.models.harmon.weights import layouts
from unimrg_trainer.models.requests import (
    LETTER_ONLY,
    VLMEVALKIT_CHOICE,
    AnswerRequest,
    GenerateRequest,
    PromptStyle,
    require_size,
)
from unimrg_trainer.models.weights import Layout
from unimrg_trainer.objectives.base import Objective, Task
from unimrg_trainer.packing.composition import Composition

TOKENIZER = Asset(
    "qwen2.5-tokenizer.json", "Qwen2.5's tokenizer", "put the tokenizer.json of Qwen2.5-Instruct there under this name"
)

NEVER_READ = ("mar.class_emb.",)
"""Parameters that published checkpoints hold and no computation reads."""

GENERATION_ONLY = ("mar.decoder_", "mar.mask_token", "mar.diffusion_pos_embed_learned", "mar.diffloss.", "proj_out.")
"""Parameters that only image losses reach."""

PARTS = {
    "LanguageModel": ("llm.",),
    "Encoder": ("mar.",),
    "Projectors": ("proj_in.", "proj_out."),
    "Decoder": ("mar.decoder_", "mar.mask_token", "mar.diffusion_pos_embed_learned"),
    "DiffusionHead": ("mar.diffloss.",),
}
"""Parts of the model, by prefixes of the names of their parameters."""


class HarmonFamily:
    """Harmon at one size. Codec and tokenizer are opened when first needed.

    `settings` is the JSON of `spec.model.harmon`; defaults are filled in. The published codec and tokenizer,
    which do not ship with us, are files in `assets` (models/base.py).
    """

    name = "harmon"
    prompt_style = PromptStyle("harmon", VLMEVALKIT_CHOICE + LETTER_ONLY)

    def __init__(self, settings: Mapping[str, Any]) -> None:
        spec = HarmonSpec.model_validate(settings)
        self.variant: str = spec.variant
        self.config = with_mask_rate(config_of(spec.variant, float(spec.dropout)), spec.mask_rate)
        sampling = spec.sampling
        self.sampling = SamplingSettings(
            steps=sampling.steps,
            text_steps=sampling.text_steps,
            diffusion_steps=sampling.diffusion_steps,
            guidance=float(sampling.guidance),
            guidance_schedule=sampling.guidance_schedule,
        )
        self.assets = Path()

    @cached_property
    def codec(self) -> Codec:
        return open_codec(self.config, self.assets)

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        path = TINY_TOKENIZER if self.config.tokenizer == "tiny" else TOKENIZER.find(self.assets)
        ids = QWEN_IDS if path != TINY_TOKENIZER else {}
        return ChatTokenizer(path, self.config.language.vocabulary, TOKENIZER.remedy, ids)

    @cached_property
    def template(self) -> Template:
        return Template(self.config, self.tokenizer)

    def needed_files(self) -> Sequence[Asset]:
        """Codec and tokenizer of the published sizes."""
        return [KL16, TOKENIZER] if self.config.codec == "kl16" else []

    def build(self) -> Harmon:
        """Build the trainable module, initialised from torch's global generator, in float32, train mode."""
        return Harmon(self.config).train()

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Parts that a job may freeze, by prefixes of names."""
        return PARTS

    def frozen(self, objectives: Collection[Objective]) -> frozenset[str]:
        """Names of parameters that none of `objectives` can reach."""
        generates = any(objective.map is not None for objective in objectives)
        unreached = NEVER_READ if generates else NEVER_READ + GENERATION_ONLY
        with torch.device("meta"):
            names = [name for name, _ in Harmon(self.config).named_parameters()]
        return frozenset(name for name in names if name.startswith(unreached))

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Weight decay for everything but vectors, biases and the diffusion head (docs/method/recipe.md)."""
        return parameter.ndim > 1 and not name.endswith(".bias") and "diffloss" not in name

    def encoder_file(self) -> Asset | None:
        """The codec's, of the published sizes."""
        return KL16 if self.config.codec == "kl16" else None

    def reading(self, map: ImageMap | None) -> Reading:
        """All that a row sees of pictures are tokens of the codec."""
        if map is None:
            return Reading([image_encoding(self.config, Geometry.PAD)], image=False)
        target = codec_encoder(self.config).of_map(map)
        return Reading([image_encoding(self.config, Geometry.SQUASH), target], image=False)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, H, H, 3] → tokens float16 [B, S, C] on the same device; the codec computes in float32."""
        self.codec.to(images.device)
        with full_precision(images.device):
            return encode_tokens(self.codec, images).half()

    def plan(self, objective: str, tasks: Sequence[tuple[int, Task]], rng: RngFor) -> list[Row]:
        """See `rows.plan_cohort`: the cohort shares one mask rate."""
        return list(plan_cohort(self.config, self.template, objective, tasks, rng))

    def collate(self, rows: Sequence[Row], rng: RngFor, composition: Composition = Composition.OFFICIAL) -> HarmonBatch:
        """See `collate.collate`."""
        return collate(self.config, cast(Sequence[HarmonRow], rows), rng, composition)

    def prepare(self, batch: HarmonBatch, device: torch.device, dtype: torch.dtype) -> HarmonBatch:
        """Move the batch to `device` and encode there what did not come encoded, each image once."""
        moved = batch.to(device, dtype)
        return replace(moved, latents=moved.pictures.encoded(self.encode))

    def preview(self, batch: HarmonBatch) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """(image, target) of each row of a prepared batch, decoded from the tokens that the loss sees."""
        assert batch.latents is not None, "the batch was not prepared"
        pictures = decode_tokens(self.codec.to(batch.latents.device), batch.latents, self.config.side)
        targets = dict(zip(batch.target_rows, batch.targets.tolist(), strict=True))
        return [
            (None if image is None else pictures[image], pictures[targets[row]] if row in targets else None)
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
        """Answer each request greedily; an image is padded to a square."""
        with self._inference(module) as inference:
            return inference.answer(requests, max_new_tokens=max_new_tokens, on_token=on_token)

    def generate(
        self, module: nn.Module, requests: Sequence[GenerateRequest], *, on_round: OnRound = lambda done, total: None
    ) -> list[np.ndarray]:
        """Generate an image of the model's size for each request, from its squashed image or from a description alone.

        Raises ValueError for a request of another size.
        """
        require_size(requests, self.config.image_size, f"Harmon {self.variant}")
        with self._inference(module) as inference:
            tokens = inference.generate(requests, self.sampling, on_round)
        return list(decode_tokens(self.codec.to(tokens.device), tokens, self.config.side))

    @contextmanager
    def _inference(self, module: nn.Module) -> Iterator[Inference]:
        """Inference with the module in evaluation mode; afterwards it is as it was."""
        assert isinstance(module, Harmon)
        with evaluation_mode(module):
            yield Inference(module, self.template, self.tokenizer, self.codec.limit, self.encode)
