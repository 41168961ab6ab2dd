"""Show-o: one transformer that reads text causally and images in both directions, and predicts text and codes.

One forward computes the losses of every row of a micro-step, whatever its objective (docs/method/showo.md): an answer's
tokens are predicted one place ahead, masked codes at their own place, by one head over one vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.models.common.attention import Attention
from unimrg_trainer.models.common.cross_entropy import cross_entropies
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.phi import build_language_model, run_language_model


class ShowO(nn.Module):
    """`showo.*` and, with CLIP, `mm_projector.*` of a published checkpoint; the frozen encoders are no part of it."""

    def __init__(self, config: ShowOConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.showo = build_language_model(config.language, config.vocabulary)
        if config.clip:
            self.mm_projector = nn.Sequential(nn.Linear(config.clip.width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, batch: ShowOBatch) -> Tensor:
        """Sum of each row's loss terms [R]: cross-entropies of answers and of masked codes."""
        table = self.table(batch)
        states = functional.embedding(batch.predictors, self.states(batch).flatten(0, 1))
        losses = cross_entropies(self.scores, states, table[batch.labels])
        return torch.stack(batch.row_sums(losses))

    def table(self, batch: ShowOBatch) -> Tensor:
        """Token ids that rows are made of, int [1 + codes + T]: see `ShowOBatch`."""
        assert batch.codes is not None, "the batch was not prepared"
        codes = batch.codes.long() + self.config.first_code
        return torch.cat([codes.new_full((1,), self.config.mask), codes, batch.texts])

    def states(self, batch: ShowOBatch, cache: DynamicCache | None = None) -> Tensor:
        """Hidden states of all places [B, L, D]."""
        embeddings = self.embed(self.table(batch)[batch.sources])
        if self.config.clip and batch.features is not None:  # without an image too, so that no parameter is unused
            projected = self.mm_projector(batch.features).to(embeddings.dtype)[batch.shown].flatten(0, 1)
            flat = embeddings.flatten(0, 1).index_copy(0, batch.shown_places, projected)
            embeddings = flat.view_as(embeddings)
        return self.language(embeddings, batch.positions, batch.attention, cache)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: int [...] → [..., D]."""
        embedded: Tensor = self.showo.model.embed_tokens(ids)
        return embedded

    def language(
        self, embeddings: Tensor, positions: Tensor, attention: Attention = None, cache: DynamicCache | None = None
    ) -> Tensor:
        """See `phi.run_language_model`."""
        return run_language_model(self.showo, embeddings, positions, attention, cache)

    def scores(self, states: Tensor) -> Tensor:
        """Scores of every token [..., vocabulary] from hidden states [..., D]."""
        scores: Tensor = self.showo.lm_head(states)
        return scores

    def code_scores(self, states: Tensor) -> Tensor:
        """Scores of every code [..., codebook] from hidden states [..., D]."""
        head, config = self.showo.lm_head, self.config
        codes = slice(config.first_code, config.mask)
        return functional.linear(states, head.weight[codes], head.bias[codes])
