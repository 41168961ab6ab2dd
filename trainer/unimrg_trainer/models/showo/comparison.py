"""Comparing this Show-o with another implementation, from outside: everything random is passed in, codes for pixels.

    module = build(replace(config_of("Tiny"), image_size=64))         any numbers, not only named sizes
    load(module, torch.load("pytorch_model.bin", weights_only=True))  published names; `export` gives them back
    batch = batch_of(config, rows, codes, views)                      every input of a loss, attention included
    module(batch)                                                     one loss sum for each row
    sample(module, prompts, views, draws=…, settings=…)               codes
    answers(module, prompts, codes, views, ends=…)                    greedy token ids

Modules come from `build` in float32 and evaluation mode; `.double()` makes all of it float64. Shapes: N codes of an
image in raster order, n places of an image that is read, F features of each. What is compared is docs/method/showo.md;
the frozen encoders are `magvit.Magvit` and `vision.build_tower`, with `MagvitConfig` and `ClipConfig` for numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.text import text_segment
from unimrg_trainer.models.common.unique_images import unknown_images
from unimrg_trainer.models.showo.batch import ShowOBatch
from unimrg_trainer.models.showo.collate import Pool, Resolved, assemble
from unimrg_trainer.models.showo.encodings import picture_encoder
from unimrg_trainer.models.showo.maskgit import Draws
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import ShowORow, answering, block_start, generated, generation_prompt
from unimrg_trainer.models.showo.sampling import Prompts, SamplingSettings, generate_codes, greedy_answers
from unimrg_trainer.models.showo.weights import layouts
from unimrg_trainer.packing.segments import row_length
from unimrg_trainer.sample import Sample

__all__ = [
    "Draws",
    "GivenAnswer",
    "GivenTarget",
    "SamplingSettings",
    "answers",
    "batch_of",
    "build",
    "export",
    "load",
    "sample",
]

_GIVEN = Sample("given")
"""Stands in the rows where a sample would: its pixels are not looked at, because codes or features are given."""


def build(config: ShowOConfig) -> ShowO:
    """Build a model of any configuration, drawn from torch's global generator."""
    return ShowO(config).eval()


def load(module: ShowO, published: Mapping[str, Tensor]) -> list[str]:
    """Overwrite the module's weights with tensors under their published names; return the names that it does not use.

    Raises RuntimeError for a missing tensor or one of another shape.
    """
    layout = layouts(module.config)[0]
    names = {name: layout.ours(name) for name in published}
    known = module.state_dict()
    used = {ours: published[name] for name, ours in names.items() if ours in known}
    module.load_state_dict(used)
    return sorted(name for name, ours in names.items() if ours not in known)


def export(module: ShowO) -> dict[str, Tensor]:
    """Return the weights under their published names; they share memory with the module's."""
    layout = layouts(module.config)[0]
    return {layout.theirs(name): tensor for name, tensor in module.state_dict().items()}


@dataclass(frozen=True, eq=False)
class GivenAnswer:
    """A question with its answer; without an answer, a beginning for `answers`."""

    question: Sequence[int]
    """Token ids between the image and the answer."""
    answer: Sequence[int] = ()
    """Token ids, all learnt."""
    image: int | None = None
    """Index among `views` where a tower reads images, else among `codes`; None: without an image."""
    system: Sequence[int] = ()
    """Token ids between `mmu` and the image's `soi`."""


@dataclass(frozen=True, eq=False)
class GivenTarget:
    """An image to generate; for `sample` only the prompt and the source count."""

    prompt: Sequence[int]
    """Token ids behind the source's `eoi`, or behind `t2i`, with sot and eot."""
    source: int | None = None
    """Index among `views`; None: from the prompt alone."""
    target: int = 0
    """Index among `codes`."""
    masked: Tensor | None = None
    """bool [N]: the codes that are predicted."""


Given = GivenAnswer | GivenTarget


def batch_of(config: ShowOConfig, rows: Sequence[Given], codes: Tensor, views: Tensor) -> ShowOBatch:
    """Every input of the rows' losses, for `module(batch)`: sums of cross-entropies; divided by the number of answer
    tokens, or of masked codes, they are the published loss of that row.

    codes int [U, N] of generated images; views float [V, n, F] the tower's features, or int [V, n] the codes of
    sources. All of it lies on the device of `codes`. Positions, attention and all else can be replaced:
    `dataclasses.replace(batch, attention=…)`.
    """
    return _assemble(
        config, [_whole_row(config, row) for row in rows], [_resolve(config, row) for row in rows], codes, views
    )


def sample(
    module: ShowO,
    prompts: Sequence[GivenTarget],
    views: Tensor,
    *,
    draws: Draws,
    settings: SamplingSettings,
    without: Sequence[int] = (),
) -> Tensor:
    """Generate the codes of one image for each prompt: int [B, N].

    `without` are the ids behind `t2i` that guidance compares with, needed unless it is 0.
    """
    config = module.config
    nothing = [GivenTarget(without)] * len(prompts) if settings.guidance != 0 else []
    with torch.inference_mode():
        read, other = (_read(module, given, views.new_zeros(0, config.tokens), views) for given in (prompts, nothing))
        assert read is not None
        pair = None if other is None else (other, _starts(config, nothing, views.device))
        return generate_codes(read, _starts(config, prompts, views.device), draws, settings, pair)


def answers(
    module: ShowO,
    prompts: Sequence[GivenAnswer],
    codes: Tensor,
    views: Tensor,
    *,
    ends: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy token ids behind each question, up to the first of `ends`, which is left out."""
    with torch.inference_mode():
        read = _read(module, prompts, codes, views)
        return [] if read is None else greedy_answers(read, ends, max_new_tokens)


def _read(module: ShowO, given: Sequence[Given], codes: Tensor, views: Tensor) -> Prompts | None:
    if not given:
        return None
    rows = [_beginning(module.config, one) for one in given]
    resolved = [replace(_resolve(module.config, one), target=None) for one in given]
    batch = _assemble(module.config, rows, resolved, codes, views)
    return Prompts(module, batch, [row_length(row.parts) for row in rows])


def _starts(config: ShowOConfig, given: Sequence[GivenTarget], device: torch.device) -> Tensor:
    starts = [block_start(config, with_source=one.source is not None) for one in given]
    return torch.tensor(starts, device=device)[:, None]


def _beginning(config: ShowOConfig, row: Given) -> ShowORow:
    if isinstance(row, GivenAnswer):
        text = text_segment(row.question, row.answer)
        parts = answering(config, row.system, text, None if row.image is None else _GIVEN)
    else:
        parts = generation_prompt(config, row.prompt, None if row.source is None else _GIVEN)
    return ShowORow("given", 0, 0, parts)


def _whole_row(config: ShowOConfig, row: Given) -> ShowORow:
    beginning = _beginning(config, row)
    if isinstance(row, GivenAnswer):
        return beginning
    assert row.masked is not None
    masked = int(row.masked.sum())
    target = generated(config, _GIVEN, PIXEL, masked, with_source=row.source is not None)
    return replace(beginning, parts=(*beginning.parts, *target))


def _resolve(config: ShowOConfig, row: Given) -> Resolved:
    pool: Pool = "views"
    if isinstance(row, GivenAnswer):
        if config.clip is None:
            pool = "pictures"
        return Resolved(None if row.image is None else (pool, row.image), None)
    masked = np.zeros(0, dtype=np.int64) if row.masked is None else row.masked.nonzero()[:, 0].cpu().numpy()
    return Resolved(None if row.source is None else (pool, row.source), (row.target, masked))


def _assemble(
    config: ShowOConfig, rows: Sequence[ShowORow], resolved: Sequence[Resolved], codes: Tensor, views: Tensor
) -> ShowOBatch:
    """The batch of rows whose images are given as codes and features."""
    pictures, viewed = (unknown_images(picture_encoder(config), len(given)) for given in (codes, views))
    batch = assemble(config, rows, resolved, pictures, viewed)
    moved = batch.to(codes.device, views.dtype if config.clip else torch.float32)
    flat = codes.flatten().short()
    if config.clip:
        return replace(moved, codes=flat, features=views)
    return replace(moved, codes=torch.cat([flat, views.flatten().short()]))
