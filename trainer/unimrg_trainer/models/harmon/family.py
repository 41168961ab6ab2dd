"""Harmon behind the interface that every model family offers to the loop (models/base.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unimrg_trainer.models.base import Address
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.codec import Codec, codec_file, decode_tokens, encode_tokens, open_codec
from unimrg_trainer.models.harmon.collate import collate
from unimrg_trainer.models.harmon.config import config_of
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.sample import SamplingSettings, answer_questions, sample_tokens
from unimrg_trainer.models.harmon.template import Template
from unimrg_trainer.models.harmon.tokenizer import TextTokenizer, open_tokenizer, tokenizer_file
from unimrg_trainer.objectives.base import Branch
from unimrg_trainer.packing.plan import Plan, Segment

TEXT_OBJECTIVES = frozenset({"Understanding"})
"""Objectives whose loss is on text; every other one generates an image."""

NEVER_READ = ("mar.class_emb.",)
"""Parameters that published checkpoints hold and no computation reads."""

GENERATION_ONLY = (
    "mar.decoder_",
    "mar.mask_token",
    "mar.diffusion_pos_embed_learned",
    "mar.diffloss.",
    "proj_out.",
)
"""Parameters that only image losses reach."""


class HarmonFamily:
    """Harmon at one size. Codec and tokenizer are opened when first needed.

    `assets` is the folder of files that do not ship with us (the published codec and tokenizer); by default
    `harmon/` in the cache.
    """

    name = "Harmon"

    def __init__(self, variant: str, dropout: float = 0.1, assets: Path | None = None) -> None:
        self.variant = variant
        self.config = config_of(variant, dropout)
        self.image_size = self.config.image_size
        self.assets = assets or Path(os.environ.get("UNIMRG_CACHE", "/cache")) / "harmon"

    @cached_property
    def codec(self) -> Codec:
        return open_codec(self.config, self.assets)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return open_tokenizer(self.config, self.assets)

    @cached_property
    def template(self) -> Template:
        return Template(self.config, self.tokenizer)

    def check_assets(self) -> None:
        """Raise UserError (INPUT_MISSING) where codec or tokenizer are missing; their content is not looked at."""
        codec_file(self.config, self.assets)
        tokenizer_file(self.config, self.assets)

    def build(self) -> Harmon:
        """Build the trainable module, initialised from torch's global generator, in float32, train mode."""
        return Harmon(self.config).train()

    def frozen(self, objectives: Collection[str]) -> frozenset[str]:
        """Names of parameters that none of `objectives` can reach."""
        unreached = NEVER_READ if set(objectives) - TEXT_OBJECTIVES else NEVER_READ + GENERATION_ONLY
        with torch.device("meta"):
            names = [name for name, _ in Harmon(self.config).named_parameters()]
        return frozenset(name for name in names if name.startswith(unreached))

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Weight decay for everything but vectors, biases and the diffusion head (method.md §1.3)."""
        return parameter.ndim > 1 and not name.endswith(".bias") and "diffloss" not in name

    def lay_out(self, branch: Branch, hidden: int) -> tuple[tuple[Segment, ...], int]:
        """See `Template.lay_out`."""
        return self.template.lay_out(branch, hidden)

    def draw_hidden(self, generator: np.random.Generator) -> int:
        """Draw a cohort's mask rate, normal and truncated to [minimum, 1], and return the hidden tokens: 1 … all."""
        config = self.config
        while True:
            rate = generator.normal(config.mask_mean, config.mask_deviation)
            if config.mask_minimum <= rate <= 1:
                return int(np.ceil(config.tokens * rate))

    def collate(self, plan: Plan, images: np.ndarray, targets: np.ndarray, address: Address) -> HarmonBatch:
        """See `collate.collate`."""
        return collate(self.config, self.codec, plan, images, targets, address)

    def generate(
        self,
        module: nn.Module,
        images: np.ndarray,
        prompt: str,
        *,
        seed: int,
        settings: Any,
        rows: Sequence[int],
        on_round: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Generate one image for each input image under one prompt. uint8 [B, S, S, 3] → uint8 [B, S, S, 3].

        `settings` has `steps`, `diffusion_steps` and `guidance` (and may have `temperature`), as numbers or decimal
        strings. Image i draws its random numbers at (seed, rows[i]), so splitting a batch changes nothing.
        """
        wanted = SamplingSettings(
            steps=int(settings.steps),
            diffusion_steps=int(settings.diffusion_steps),
            guidance=float(settings.guidance),
            temperature=float(getattr(settings, "temperature", 1)),
        )
        with _evaluating(module) as model:
            tokens = self._tokens(model, images)
            sampled = sample_tokens(
                model,
                self.template,
                tokens,
                prompt,
                seed=seed,
                settings=wanted,
                rows=rows,
                limit=self.codec.limit,
                on_round=on_round,
            )
        return decode_tokens(self.codec, sampled, self.config.side)

    def answer(
        self, module: nn.Module, images: np.ndarray, questions: Sequence[str], *, max_new_tokens: int
    ) -> list[str]:
        """Answer one question about each image, greedily. images uint8 [B, S, S, 3]."""
        with _evaluating(module) as model:
            return answer_questions(
                model,
                self.template,
                self.tokenizer,
                self._tokens(model, images),
                questions,
                max_new_tokens=max_new_tokens,
            )

    def _tokens(self, model: Harmon, images: np.ndarray) -> Tensor:
        parameter = next(model.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return encode_tokens(self.codec, images).to(parameter.device, dtype)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[Harmon]:
    """The module in evaluation mode; afterwards as it was."""
    assert isinstance(module, Harmon)
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)
