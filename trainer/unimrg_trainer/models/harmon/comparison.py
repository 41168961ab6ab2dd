"""Comparing this Harmon with another implementation, from outside: everything random is passed in, latents for pixels.

    module = build(replace(config_of("Tiny"), diffusion_repeats=2))    any numbers, not only named sizes
    load(module, torch.load("harmon_0.5b.pth", weights_only=True))     published names; `export` gives them back
    loss_sums(module, latents, rows)                                   answers and images, one sum for each row
    sample(module, prompts, latents, orders=…, noise=…)                image tokens
    answers(module, prompts, latents, ends=…)                          greedy token ids

Modules come from `build` in float32 and evaluation mode, without dropout; `.double()` makes all of it float64. Shapes:
S tokens of an image in raster order, C channels, P uses of a masked token. What is compared is docs/method/harmon.md;
the frozen autoencoder is `kl16.Kl16`, with `Kl16Config` (api/unimrg_api/sizes) for its numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.common.text import IGNORE, TextSegment
from unimrg_trainer.models.common.unique_images import unknown_images
from unimrg_trainer.models.harmon.collate import TargetDraws, assemble
from unimrg_trainer.models.harmon.encodings import Geometry, codec_encoder
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.rows import HarmonRow, ImageSegment, TargetSegment
from unimrg_trainer.models.harmon.sampling import (
    CachedPrompts,
    Prompt,
    SamplingSettings,
    embed_prompts,
    greedy_answers,
    sample_tokens,
)
from unimrg_trainer.models.harmon.weights import layouts
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample

__all__ = [
    "GivenRow",
    "GivenTarget",
    "Prompt",
    "SamplingSettings",
    "answers",
    "build",
    "export",
    "load",
    "loss_sums",
    "sample",
]

_GIVEN = Sample("given")
"""Stands in the rows where a sample would: its pixels are not looked at, because latents are given."""


def build(config: HarmonConfig) -> Harmon:
    """Build a model of any configuration, drawn from torch's global generator."""
    return Harmon(config).eval()


def load(module: Harmon, published: Mapping[str, Tensor]) -> list[str]:
    """Overwrite the module's weights with tensors under their published names; return the names that it does not use.

    Raises KeyError for a missing tensor, RuntimeError for one of another shape.
    """
    layout = layouts(module.config)[0]
    used = {name: ours for name in published if (ours := layout.ours(name)) is not None}
    found = {ours: published[name] for name, ours in used.items()}
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if found[name].shape != parameter.shape:
                raise RuntimeError(f"{name} is {list(found[name].shape)}, not {list(parameter.shape)}")
            parameter.copy_(found[name])
    return sorted(name for name in published if used.get(name) not in parameters)


def export(module: Harmon) -> dict[str, Tensor]:
    """Return the weights under their published names, tied copies included; they share memory with the module's."""
    layout = layouts(module.config)[0]
    tensors = {layout.theirs(name): parameter.detach() for name, parameter in module.named_parameters()}
    return tensors | {copy: tensors[original] for copy, original in layout.copies}


@dataclass(frozen=True, eq=False)
class GivenTarget:
    """An image to generate and the random inputs of its loss."""

    image: int
    """Index among the given latents: x_0."""
    masked: Tensor
    """bool [S]."""
    timesteps: Tensor
    """int [S, P]; read where `masked`."""
    noise: Tensor
    """float [S, P, C]: ε; read where `masked`."""


@dataclass(frozen=True, eq=False)
class GivenRow:
    """One row: a prompt with an answer in it, or a prompt and a target behind it."""

    prompt: Prompt
    labels: Sequence[int] = ()
    """For each id of `prompt.after` itself where it is learnt, else −100; empty: none is."""
    target: GivenTarget | None = None


def loss_sums(module: Harmon, latents: Tensor, rows: Sequence[GivenRow]) -> Tensor:
    """Loss sum of each row [R], differentiable, all rows in one forward.

    latents float [U, S, C] are codec tokens, times the codec's scale. A sum divided by its number of terms is the
    published loss of that row: labelled tokens, or P times masked tokens. Answers are cross-entropies, images the
    diffusion loss of masked tokens, whose gradient through shown images is scaled by
    `config.feature_gradient_scale`.
    """
    config = module.config
    targets = [row.target for row in rows if row.target is not None]
    images = [row.prompt.image for row in rows if row.prompt.image is not None]
    draws = [_draws(target) for target in targets]
    target_images, pictures = [target.image for target in targets], unknown_images(codec_encoder(config), len(latents))
    batch = assemble(config, [_row(config, row) for row in rows], draws, images, target_images, pictures)
    moved = batch.to(latents.device, latents.dtype)
    sums: Tensor = module(replace(moved, latents=latents))
    return sums


def _draws(target: GivenTarget) -> TargetDraws:
    masked = target.masked.nonzero()[:, 0]
    parts = (masked, target.timesteps[masked], target.noise[masked])
    return TargetDraws(*(part.cpu().numpy() for part in parts))


def _row(config: HarmonConfig, row: GivenRow) -> HarmonRow:
    def text(ids: Sequence[int], labels: Sequence[int] = ()) -> TextSegment:
        label_ids = tuple(labels) or (IGNORE,) * len(ids)
        return TextSegment(length=len(ids), token_ids=tuple(ids), labels=label_ids)

    segments: list[Segment] = [text(row.prompt.before)]
    if row.prompt.image is not None:
        segments.append(ImageSegment(length=config.image_slots, sample=_GIVEN, geometry=Geometry.SQUASH))
    segments.append(text(row.prompt.after, row.labels))
    if row.target is not None:
        masked = int(row.target.masked.sum())
        length = config.tokens - masked + config.mar.buffers
        segments.append(TargetSegment(length=length, sample=_GIVEN, map=find_map("pixel"), masked=masked))
    return HarmonRow("given", 0, 0, tuple(segments))


def sample(
    module: Harmon,
    prompts: Sequence[Prompt],
    latents: Tensor,
    *,
    orders: Tensor,
    noise: Tensor,
    rounds: int,
    settings: SamplingSettings,
    unconditional: Prompt | None = None,
) -> Tensor:
    """Generate the tokens of one image for each prompt: [B, S, C], times the codec's scale.

    orders int [B, S] are permutations: what stays masked is always their beginning. noise float
    [settings.diffusion_steps + 1, B, S, C], by token: the start of its diffusion, then one for each step in the order
    taken; a token is drawn in one round only. `unconditional` is needed where guidance is not 1.
    """
    given = [list(prompts)]
    if settings.guidance != 1:
        if unconditional is None:
            raise ValueError("guidance needs an unconditional prompt")
        given.append([unconditional] * len(prompts))
    with torch.inference_mode():
        prompted = [CachedPrompts(module, embed_prompts(module, each, latents)) for each in given]

    def noise_of(_round: int, chosen: Tensor) -> Tensor:
        return noise.take_along_dim(chosen.to(noise.device)[None, :, :, None], dim=2).flatten(1, 2)

    return sample_tokens(module, prompted, np.asarray(orders.cpu()), noise_of, rounds, settings)


def answers(
    module: Harmon, prompts: Sequence[Prompt], latents: Tensor, *, ends: Collection[int], max_new_tokens: int
) -> list[list[int]]:
    """Greedy token ids behind each prompt, up to the first of `ends`, which is left out."""
    with torch.inference_mode():
        prompted = CachedPrompts(module, embed_prompts(module, prompts, latents))
    return greedy_answers(module, prompted, ends, max_new_tokens)
