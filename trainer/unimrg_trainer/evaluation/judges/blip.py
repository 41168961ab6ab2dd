"""A judge of DPG-Bench that needs nothing but transformers: BLIP for questions about images.

The benchmark's own judge is mPLUG-large: what BLIP says is another metric, with a name of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from unimrg_trainer.evaluation.judges.pictures import standardised
from unimrg_trainer.preparation.producers.weights import Weights

MOST_TOKENS = 10
"""Length of an answer, at most."""


class Blip:
    """The judge `blip`, of questions. Needs `tokenizer.json` beside its weights."""

    name = "blip"

    def __init__(self, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device

    def identity(self) -> dict[str, str]:
        """Return the judge's name and the SHA-256 of its weights."""
        return {"judge": self.name, "judge_sha256": self._weights.digest()}

    @torch.inference_mode()
    def answers(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        """Return the greedy answer to each question. Questions of one length go through the model together, so that
        none is padded: BLIP's decoder would look at the padding."""
        model = self._model
        side: int = model.config.vision_config.image_size
        squeezed = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        seen = model.vision_model(pixel_values=standardised(squeezed)[None].to(self._device))[0]
        by_length: dict[int, list[int]] = defaultdict(list)
        encoded = [self._tokenizer.encode(question).ids for question in questions]
        for index, tokens in enumerate(encoded):
            by_length[len(tokens)].append(index)
        found: dict[int, str] = {}
        for indices in by_length.values():
            tokens = torch.tensor([encoded[index] for index in indices], device=self._device)
            for index, answer in zip(indices, self._decoded(tokens, seen), strict=True):
                found[index] = answer
        return [found[index] for index in range(len(questions))]

    def _decoded(self, tokens: torch.Tensor, seen: torch.Tensor) -> list[str]:
        """Return the answers to questions [N, L] about what is seen [1, P, D]."""
        model, text = self._model, self._model.config.text_config
        seen = seen.expand(len(tokens), -1, -1)
        understood = model.text_encoder(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )[0]
        written = model.text_decoder.generate(
            input_ids=torch.full((len(tokens), 1), model.decoder_start_token_id, device=seen.device),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            encoder_hidden_states=understood,
            encoder_attention_mask=torch.ones(understood.shape[:2], dtype=torch.long, device=seen.device),
            max_new_tokens=MOST_TOKENS,
            do_sample=False,
            num_beams=1,
        )
        special = {model.decoder_start_token_id, text.sep_token_id, text.pad_token_id}
        words = [[token for token in row if token not in special] for row in written.tolist()]
        return [self._tokenizer.decode(row).strip() for row in words]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._weights.file("tokenizer.json")))

    @cached_property
    def _model(self) -> Any:
        from transformers import BlipForQuestionAnswering  # takes seconds

        return self._weights.transformer(BlipForQuestionAnswering, self._device)
