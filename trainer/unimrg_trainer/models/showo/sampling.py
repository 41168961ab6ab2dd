"""From beginnings of rows to codes and answers, on token ids alone: no text, no pixels, nothing drawn here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.base import OnRound
from unimrg_trainer.models.common.decoding import greedy
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.maskgit import UNKNOWN, Draws, sample_codes
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import generated, visibility
from unimrg_trainer.sample import Sample


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
        """`batch` is prepared and holds one beginning per row, of `lengths` tokens; what follows sees all of it."""
        self.model = model
        self._cache = DynamicCache()
        device = batch.positions.device
        count = torch.tensor(lengths, device=device)[:, None]
        self._real = torch.arange(batch.positions.shape[1], device=device) < count
        states = model.states(batch, self._cache)
        self.last = states.take_along_dim((count - 1)[..., None], dim=1)
        """State of each beginning's last token [B, 1, D]."""
        self.next = batch.positions.take_along_dim(count - 1, dim=1) + 1
        """Position of the token that continues each beginning [B, 1]."""

    def read(self, ids: Tensor, positions: Tensor, visibility: Tensor, *, keep: bool) -> Tensor:
        """States of further tokens int [B, l].

        They see all of their beginning, and what was kept and one another as `visibility` [l, kept + l] says. `keep`:
        later tokens see them.
        """
        batch, new = ids.shape
        sees = torch.cat([self._real[:, None].expand(-1, new, -1), visibility.expand(batch, -1, -1)], dim=-1)
        states = self.model.language(self.model.embed(ids), positions, sees[:, None], self._cache)
        if not keep:
            self._cache.crop(-new)
        return states


def generate_codes(
    prompts: Prompts,
    starts: Tensor,
    draws: Draws,
    settings: SamplingSettings,
    without: tuple[Prompts, Tensor] | None = None,
    on_round: OnRound = lambda done, total: None,
) -> Tensor:
    """Codes of one image behind each beginning, int [B, N]; the number of rounds is that of `draws`.

    starts int [B, 1] are the positions of the images' `soi`. `without`: what guidance compares with, needed unless it
    is 0.
    """
    guidance = settings.guidance

    def scores(codes: Tensor) -> Tensor:
        found = _code_scores(prompts, starts, codes)
        if guidance == 0:
            return found
        assert without is not None, "guidance needs something to compare with"
        return (1 + guidance) * found - guidance * _code_scores(*without, codes)

    moved = Draws(*(part.to(prompts.last.device, prompts.last.dtype) for part in (draws.choices, draws.confidences)))
    return sample_codes(scores, moved, settings.temperature, on_round)


def greedy_answers(
    prompts: Prompts, ends: Collection[int], max_new_tokens: int, on_token: Callable[[], None] = lambda: None
) -> list[list[int]]:
    """The likeliest token ids behind each beginning, up to the first of `ends`, which is left out."""
    scores = prompts.model.scores

    def advance(tokens: Tensor, step: int) -> Tensor:
        seen = torch.ones(1, step + 1, dtype=torch.bool, device=tokens.device)
        return scores(prompts.read(tokens, prompts.next + step, seen, keep=True)[:, 0])

    return greedy(scores(prompts.last[:, 0]), advance, ends, max_new_tokens, on_token)


@lru_cache(maxsize=4)
def _image_visibility(config: ShowOConfig) -> np.ndarray:
    """Which place of an image attends to which: among themselves the same, wherever the image stands."""
    return visibility(generated(config, Sample(""), PIXEL, 0, with_source=False))


def _code_scores(prompts: Prompts, starts: Tensor, codes: Tensor) -> Tensor:
    """Scores [B, N, codebook] of all codes of partly known images."""
    model, config = prompts.model, prompts.model.config
    ids = torch.where(codes == UNKNOWN, config.mask, codes + config.first_code)
    start, end = (torch.full_like(ids[:, :1], config.special(name)) for name in ("soi", "eoi"))
    sees = torch.from_numpy(_image_visibility(config)).to(ids.device)
    positions = starts + torch.arange(config.tokens + 2, device=ids.device)
    states = prompts.read(torch.cat([start, ids, end], dim=1), positions, sees, keep=False)
    return model.code_scores(states[:, 1:-1])
