"""Show-o at inference: a prompt, with or without an image, to an image or to an answer (docs/method/showo.md).

Random numbers have the key (seed, row) of their request, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.text import text_segment
from unimrg_trainer.models.common.tokenizer import TextTokenizer
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.collate import collate
from unimrg_trainer.models.showo.maskgit import Draws
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import Part, ShowORow, answering, block_start, generation_prompt
from unimrg_trainer.models.showo.sampling import Prompts, SamplingSettings, generate_codes, greedy_answers
from unimrg_trainer.models.showo.template import Template
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.segments import row_length
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

Prepare = Callable[[ShowOBatch, torch.device, torch.dtype], ShowOBatch]


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
        prompts = self._read(
            [
                generation_prompt(config, template.caption(r.prompt), None)
                if r.image is None
                else generation_prompt(config, template.prompt(r.prompt), Sample("", r.image))
                for r in requests
            ]
        )
        without = None
        if settings.guidance != 0:
            nothing = generation_prompt(config, template.caption(""), None)
            without = self._read([nothing] * len(requests)), self._starts([False] * len(requests))
        starts = self._starts([r.image is not None for r in requests])
        draws = draw(requests, settings.steps, config.tokens)
        return generate_codes(prompts, starts, draws, settings, without, on_round)

    @torch.inference_mode()
    def answer(
        self, requests: Sequence[AnswerRequest], *, max_new_tokens: int, on_token: Callable[[], None] = lambda: None
    ) -> list[str]:
        """Answer each request greedily, with keys and values of the past cached."""
        config, template = self._model.config, self._template
        images = [None if r.image is None else Sample("", r.image) for r in requests]
        prompts = self._read(
            [
                answering(config, template.system, text_segment(template.asked(r.prompt)), image)
                for r, image in zip(requests, images, strict=True)
            ]
        )
        answers = greedy_answers(prompts, [template.text_end], max_new_tokens, on_token)
        texts = range(config.text_vocabulary)
        return [self._tokenizer.decode([token for token in answer if token in texts]).strip() for answer in answers]

    def _read(self, beginnings: Sequence[tuple[Part, ...]]) -> Prompts:
        rows = [ShowORow("", 0, 0, parts) for parts in beginnings]
        batch = collate(self._model.config, rows, _no_draws, Composition.OFFICIAL)
        return Prompts(
            self._model, self._prepare(batch, self._device, self._dtype), [row_length(parts) for parts in beginnings]
        )

    def _starts(self, with_source: Sequence[bool]) -> Tensor:
        starts = [block_start(self._model.config, with_source=one) for one in with_source]
        return torch.tensor(starts, device=self._device)[:, None]


def draw(requests: Sequence[GenerateRequest], rounds: int, tokens: int) -> Draws:
    """The random numbers of each request, by its own key."""
    kinds = [
        np.stack([generator("generate", r.seed, r.row, kind).random((rounds, tokens)) for r in requests], axis=1)
        for kind in ("choice", "confidence")
    ]
    return Draws(*(torch.from_numpy(kind) for kind in kinds))


def _no_draws(objective: str, row: int, purpose: str) -> np.random.Generator:
    raise AssertionError("nothing is drawn for a row without a target")
