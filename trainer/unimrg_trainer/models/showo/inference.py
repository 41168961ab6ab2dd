"""Show-o at inference: a prompt, with or without an image, to an image or to an answer (docs/method/showo.md).

Random numbers have the key (seed, row) of their request, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.tokenizer import TextTokenizer
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.collate import collate
from unimrg_trainer.models.showo.maskgit import UNKNOWN, Draws, sample_codes
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import (
    Part,
    ShowORow,
    answering,
    block_start,
    generated,
    generation_prompt,
    visibility,
)
from unimrg_trainer.models.showo.template import Template
from unimrg_trainer.packing.segments import row_length
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

Prepare = Callable[[ShowOBatch, torch.device, torch.dtype], ShowOBatch]


@dataclass(frozen=True)
class SamplingSettings:
    """How an image is generated."""

    steps: int = 50
    """In how many rounds the masked codes are filled in."""
    guidance: float = 5.0
    """Scores are (1 + g) · with − g · without the prompt: 0 is none."""
    temperature: float = 1.0
    """Of the noise in the order in which codes are kept."""


class Prompts:
    """Beginnings of rows, read once: keys and values for the tokens that follow."""

    def __init__(self, model: ShowO, batch: ShowOBatch, lengths: Sequence[int]) -> None:
        """`batch` holds one beginning per row, of `lengths` tokens; what follows sees all of it."""
        self._model = model
        self._cache = DynamicCache()
        device = batch.positions.device
        self.lengths = torch.tensor(lengths, device=device)
        places = torch.arange(batch.positions.shape[1], device=device)
        self._real = places < self.lengths[:, None]
        states = model.states(batch, self._cache)
        last = (self.lengths - 1)[:, None]
        self.last = states.take_along_dim(last[..., None], dim=1)
        """State of each beginning's last token [B, 1, D]."""
        self.next = batch.positions.take_along_dim(last, dim=1) + 1
        """Position of the token that continues each beginning [B, 1]."""

    def read(self, ids: Tensor, positions: Tensor, visibility: Tensor, *, keep: bool) -> Tensor:
        """States of further tokens int [B, l].

        They see all of their beginning, and what was kept and one another as `visibility` [l, kept + l] says. `keep`:
        later tokens see them.
        """
        batch, new = ids.shape
        sees = torch.cat([self._real[:, None].expand(-1, new, -1), visibility.expand(batch, -1, -1)], dim=-1)
        states = self._model.language(self._model.embed(ids), positions, sees[:, None], self._cache)
        if not keep:
            self._cache.crop(-new)
        return states


class Inference:
    """Generates and answers with one model in evaluation mode."""

    def __init__(self, model: ShowO, template: Template, tokenizer: TextTokenizer, prepare: Prepare) -> None:
        """`prepare` is the family's: it runs the frozen encoders."""
        self._model = model
        self._template = template
        self._tokenizer = tokenizer
        self._prepare = prepare
        weight = next(model.parameters())
        self._device, self._dtype = weight.device, weight.dtype

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerateRequest], settings: SamplingSettings, on_round: OnRound) -> Tensor:
        """Generate the codes of one image for each request: int [B, N]."""
        config, template = self._model.config, self._template
        beginnings = [
            generation_prompt(config, template.prompt(r.prompt) if image else template.caption(r.prompt), image)
            for r, image in ((r, _sample(r.image)) for r in requests)
        ]
        prompted = [(self._read(beginnings), [block_start(config, with_source=r.image is not None) for r in requests])]
        if settings.guidance != 0:
            empty = generation_prompt(config, template.caption(""), None)
            starts = [block_start(config, with_source=False)] * len(requests)
            prompted.append((self._read([empty] * len(requests)), starts))
        placed = [(prompts, self._tensor(starts)[:, None]) for prompts, starts in prompted]

        def scores(codes: Tensor) -> Tensor:
            found = [self._code_scores(prompts, first, codes) for prompts, first in placed]
            return found[0] if len(found) == 1 else (1 + settings.guidance) * found[0] - settings.guidance * found[1]

        draws = draw(requests, settings.steps, config.tokens)
        moved = Draws(*(part.to(self._device, self._dtype) for part in (draws.choices, draws.confidences)))
        return sample_codes(scores, moved, settings.temperature, on_round)

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest], *, max_new_tokens: int) -> list[str]:
        """Answer each request greedily, with keys and values of the past cached."""
        model, template = self._model, self._template
        prompts = self._read(
            [answering(model.config, template.system, template.asked(r.prompt), (), _sample(r.image)) for r in requests]
        )
        last = prompts.last
        answers: list[list[int]] = [[] for _ in requests]
        running = set(range(len(requests)))
        for step in range(max_new_tokens):
            chosen = model.scores(last[:, 0]).argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                if row in running:
                    if token == template.text_end:
                        running.discard(row)
                    else:
                        answers[row].append(token)
            if not running or step == max_new_tokens - 1:
                break
            seen = torch.ones(1, step + 1, dtype=torch.bool, device=self._device)
            last = prompts.read(chosen[:, None], prompts.next + step, seen, keep=True)
        texts = range(model.config.text_vocabulary)
        return [self._tokenizer.decode([token for token in answer if token in texts]).strip() for answer in answers]

    def _read(self, beginnings: Sequence[tuple[Part, ...]]) -> Prompts:
        rows = [ShowORow("", 0, 0, parts) for parts in beginnings]
        batch = collate(self._model.config, rows, _no_draws)
        prepared = self._prepare(batch, self._device, self._dtype)
        return Prompts(self._model, prepared, [row_length(parts) for parts in beginnings])

    def _code_scores(self, prompts: Prompts, first: Tensor, codes: Tensor) -> Tensor:
        """Scores [B, N, codebook] of all codes of images whose `soi` has the position `first` [B, 1]."""
        config = self._model.config
        ids = torch.where(codes == UNKNOWN, config.mask, codes + config.first_code)
        start, end = (torch.full_like(ids[:, :1], config.special(name)) for name in ("soi", "eoi"))
        parts = generated(config, Sample(""), PIXEL, 0, with_source=False)
        sees = torch.from_numpy(visibility(parts)).to(self._device)
        positions = first + torch.arange(config.tokens + 2, device=self._device)
        states = prompts.read(torch.cat([start, ids, end], dim=1), positions, sees, keep=False)
        return self._model.code_scores(states[:, 1:-1])

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def draw(requests: Sequence[GenerateRequest], rounds: int, tokens: int) -> Draws:
    """The random numbers of each request, by its own key."""
    kinds = [
        np.stack([generator("generate", r.seed, r.row, kind).random((rounds, tokens)) for r in requests], axis=1)
        for kind in ("choice", "confidence")
    ]
    return Draws(*(torch.from_numpy(kind) for kind in kinds))


def _sample(image: np.ndarray | None) -> Sample | None:
    return None if image is None else Sample("", image)


def _no_draws(objective: str, row: int, purpose: str) -> np.random.Generator:
    raise AssertionError("nothing is drawn for a row without a target")
