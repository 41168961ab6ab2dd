"""Harmon: a masked autoregressive image model whose middle is a causal language model (docs/method/harmon.md).

One forward computes the losses of every row of a micro-step, whatever its objective: images through the encoder to h,
targets' visible tokens through the same encoder, all rows through the language model, answers to the head, targets on
through the decoder to the diffusion loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.models.common.attention import Attention
from unimrg_trainer.models.common.cross_entropy import cross_entropies
from unimrg_trainer.models.common.qwen2 import build_language_model, run_language_model
from unimrg_trainer.models.harmon.batch import HarmonBatch
from unimrg_trainer.models.harmon.diffusion import q_sample, row_loss
from unimrg_trainer.models.harmon.mar import MaskedAutoregressor


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Harmon(nn.Module):
    """`llm.*`, `mar.*`, `proj_in.*`, `proj_out.*` of a published checkpoint; the codec is no part of it."""

    def __init__(self, config: HarmonConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.language.width, config.mar.width
        self.llm = build_language_model(config.language)
        self.mar = MaskedAutoregressor(config)
        self.proj_in = nn.Sequential(nn.Linear(inner, width), nn.SiLU(), nn.Linear(width, width))
        self.proj_out = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, inner))

    def forward(self, batch: HarmonBatch) -> Tensor:
        """Sum of each row's loss terms [R]: cross-entropies of answers, diffusion losses of targets."""
        assert batch.latents is not None, "the batch was not prepared"
        targets = batch.latents[batch.targets]
        visible = targets.take_along_dim(batch.visible[..., None], dim=1)
        encoded = self.mar.encode(visible, batch.visible, batch.visible_real)
        states = self._run_rows(batch, batch.latents[batch.images], encoded)
        per_row = self._answer_sums(batch, states)
        if batch.target_rows:
            sums = self._target_sums(batch, targets, encoded, states)
            for row, target_sum in zip(batch.target_rows, sums, strict=True):
                per_row[row] = per_row[row] + target_sum
        return torch.stack(per_row)

    def features(self, tokens: Tensor) -> Tensor:
        """Projected encoding of whole images: [I, S, C] → [I, b + S, D], buffers first."""
        projected: Tensor = self.proj_in(self.mar.encode(tokens))
        return projected

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: int [...] → [..., D]."""
        embedded: Tensor = self.llm.model.embed_tokens(ids)
        return embedded

    def language(
        self, embeddings: Tensor, positions: Tensor, attention: Attention = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """See `qwen2.run_language_model`."""
        return run_language_model(self.llm, embeddings, positions, attention, cache)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of every token [..., vocabulary] from hidden states [..., D]."""
        scores: Tensor = self.llm.lm_head(states)
        return scores

    def conditions(self, encoded: Tensor, states: Tensor, grid: Tensor, grid_masked: Tensor) -> Tensor:
        """The diffusion head's condition for every token of a target [G, S, d].

        encoded [G, b + V, d] from the encoder, states [G, b + V, D] of the same tokens from the language model.
        """
        return self.mar.decode(encoded + self.proj_out(states), grid, grid_masked)

    def _run_rows(self, batch: HarmonBatch, images: Tensor, encoded: Tensor) -> Tensor:
        """Hidden states of all places [B·L, D], given the images' tokens [I, S, C] and the encoded targets."""
        features: Tensor = ScaleGradient.apply(  # type: ignore[no-untyped-call]
            self.features(images), self.config.feature_gradient_scale
        )
        texts = self.embed(batch.texts)
        zeros = texts.new_zeros(1, texts.shape[-1])
        table = torch.cat([zeros, features.flatten(0, 1), self.proj_in(encoded).flatten(0, 1), texts])
        embeddings = functional.embedding(batch.sources, table)
        return self.language(embeddings, batch.positions, batch.attention).flatten(0, 1)

    def _answer_sums(self, batch: HarmonBatch, states: Tensor) -> list[Tensor]:
        """Cross-entropy of each row's answer; the head sees only places that predict a label."""
        losses = cross_entropies(self.logits, functional.embedding(batch.predictors, states), batch.labels)
        return batch.row_sums(losses)

    def _target_sums(self, batch: HarmonBatch, targets: Tensor, encoded: Tensor, states: Tensor) -> list[Tensor]:
        """Diffusion loss of each target [S, C], summed over its masked tokens times their uses."""
        conditions = self.conditions(
            encoded, functional.embedding(batch.returns, states), batch.grid, batch.grid_masked
        )
        condition = functional.embedding(batch.masked, conditions.flatten(0, 1))
        start = functional.embedding(batch.masked, targets.flatten(0, 1))[:, None].expand_as(batch.noise)
        noisy = q_sample(start, batch.noise, batch.coefficients)
        predicted = self.mar.diffloss.net(noisy, batch.timesteps, condition)
        losses = row_loss(
            predicted.to(noisy.dtype).flatten(0, 1),
            start.flatten(0, 1),
            batch.noise.flatten(0, 1),
            batch.coefficients.flatten(1),
            batch.first_steps,
        )
        return [part.sum() for part in torch.split(losses, list(batch.terms_per_target))]
