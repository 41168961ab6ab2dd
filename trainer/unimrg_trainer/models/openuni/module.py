"""OpenUni: a language model whose query states condition a diffusion transformer (docs/method/openuni.md).

One forward computes the losses of every row of a micro-step, whatever its objective: all rows through the language
model, answers to its head, the queries of targets through connector and projector to the flow-matching loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, Qwen2ForCausalLM

from unimrg_api.sizes.openuni import OpenUniConfig
from unimrg_trainer.models.common.attention import Attention
from unimrg_trainer.models.common.cross_entropy import cross_entropies
from unimrg_trainer.models.common.qwen2 import build_language_model, run_language_model
from unimrg_trainer.models.openuni.batch import OpenUniBatch
from unimrg_trainer.models.openuni.connector import Connector
from unimrg_trainer.models.openuni.sana import build_sana, velocity


class OpenUni(nn.Module):
    """`lmm.language_model.*`, `meta_queries`, `connector.*`, `projector.*`, `transformer.*` of a published checkpoint;
    the vision tower and the codec are no part of it."""

    def __init__(self, config: OpenUniConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.lmm = nn.ModuleDict({"language_model": build_language_model(config.language)})
        self.meta_queries = nn.Parameter(torch.randn(config.queries, width) * width**-0.5)
        self.connector = Connector(width, config.connector)
        self.projector = nn.Linear(width, config.sana.caption_width)
        self.transformer = build_sana(config.sana, config.latent_shape)

    @property
    def language_model(self) -> Qwen2ForCausalLM:
        """The language model."""
        return self.lmm["language_model"]

    def forward(self, batch: OpenUniBatch) -> Tensor:
        """Sum of each row's loss terms [R]: cross-entropies of answers, squared errors of targets' velocities."""
        assert batch.features is not None and batch.latents is not None, "the batch was not prepared"
        states = self._run_rows(batch, batch.features)
        per_row = self._answer_sums(batch, states)
        if batch.target_rows:
            conditions = self.conditions(functional.embedding(batch.returns, states))
            sums = self._target_sums(batch, batch.latents[batch.targets], conditions)
            for row, target_sum in zip(batch.target_rows, sums, strict=True):
                per_row[row] = per_row[row] + target_sum
        return torch.stack(per_row)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: int [...] → [..., D]."""
        embedded: Tensor = self.language_model.model.embed_tokens(ids)
        return embedded

    def language(
        self, embeddings: Tensor, positions: Tensor, attention: Attention = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """See `qwen2.run_language_model`."""
        return run_language_model(self.language_model, embeddings, positions, attention, cache)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of every token [..., vocabulary] from hidden states [..., D]."""
        scores: Tensor = self.language_model.lm_head(states)
        return scores

    def conditions(self, states: Tensor) -> Tensor:
        """The diffusion transformer's conditions [B, Q, caption width] from the states of the queries [B, Q, D]."""
        projected: Tensor = self.projector(self.connector(states))
        return projected

    def velocity(self, latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        """See `sana.velocity`."""
        return velocity(self.transformer, latents, timesteps, conditions)

    def _run_rows(self, batch: OpenUniBatch, features: Tensor) -> Tensor:
        """Hidden states of all places [B·L, D]."""
        texts = self.embed(batch.texts)
        zeros = texts.new_zeros(1, texts.shape[-1])
        table = torch.cat([zeros, features.flatten(0, 1), self.meta_queries, texts])
        embeddings = functional.embedding(batch.sources, table)
        return self.language(embeddings, batch.positions, batch.attention).flatten(0, 1)

    def _answer_sums(self, batch: OpenUniBatch, states: Tensor) -> list[Tensor]:
        """Cross-entropy of each row's answer; the head sees only places that predict a label."""
        losses = cross_entropies(self.logits, functional.embedding(batch.predictors, states), batch.labels)
        return batch.row_sums(losses)

    def _target_sums(self, batch: OpenUniBatch, clean: Tensor, conditions: Tensor) -> Tensor:
        """Squared error of the velocity of each target [G], summed over its latents [G, C, h, w]."""
        sigmas = batch.sigmas[:, None, None, None]
        noisy = (1 - sigmas) * clean + sigmas * batch.noise
        predicted = self.velocity(noisy, batch.timesteps, conditions).to(noisy.dtype)
        return (predicted - (batch.noise - clean)).square().flatten(1).sum(dim=1)
