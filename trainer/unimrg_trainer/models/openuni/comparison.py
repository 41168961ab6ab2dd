"""Comparing OpenUni with another implementation: any configuration, weights by name, every random input passed in.

    module = build(config)                                  # config.OpenUniConfig, of any numbers
    module.load_state_dict(tensors)                         # names of published files: `weights.layouts`
    losses(module, [answering(config, before, after, answer), generating(config, before, after)],
           features=h, latents=x, noise=eps, timesteps=t, sigmas=s)
    latents = sample(module, prompts, unconditional, noise, SamplingSettings(steps=20, guidance=4.5))

`before` and `after` are the token ids around an image's features, or `before` is empty and there is none; the formats
stand in docs/method/openuni.md. Tensors may be float64 throughout: then so is all arithmetic but the sinusoids of the
time, which are float32 as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unimrg_api.sizes.openuni import OpenUniConfig
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.text import text_segment
from unimrg_trainer.models.common.unique_images import unknown_images
from unimrg_trainer.models.openuni.collate import BatchImages, assemble
from unimrg_trainer.models.openuni.encodings import codec_encoder
from unimrg_trainer.models.openuni.inference import SamplingSettings, greedy_answers, query_conditions, sample_latents
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.models.openuni.rows import ImageSegment, QuerySegment
from unimrg_trainer.packing.segments import Segment
from unimrg_trainer.sample import Sample

_NOBODY = Sample("compared")


def build(config: OpenUniConfig, dtype: torch.dtype = torch.float64) -> OpenUni:
    """Build a module of any configuration, in evaluation mode; weights come from torch's global generator.

    The frozen parts are `vision.VisionTower(config.vision, config.language.width)` and `codec.DcAe(config.codec)`.
    """
    return OpenUni(config).to(dtype).eval()


def answering(config: OpenUniConfig, before: list[int], after: list[int], answer: list[int]) -> tuple[Segment, ...]:
    """Return a row whose loss is the cross-entropy of `answer`, summed over its ids."""
    image = _image(config, before)
    return (*image, text_segment(after, answer))


def generating(config: OpenUniConfig, before: list[int], after: list[int]) -> tuple[Segment, ...]:
    """Return a row whose loss is the squared error of the velocity, summed over the latents."""
    queries = QuerySegment(length=config.queries, sample=_NOBODY, map=PIXEL)
    return (*_image(config, before), text_segment(after), queries)


def losses(
    module: OpenUni,
    rows: Sequence[Sequence[Segment]],
    *,
    features: Tensor,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    sigmas: Tensor,
) -> Tensor:
    """Loss sum of each row [R], with gradients to the module, `features` and `latents`.

    features [I, K, D] are h of the rows' images, in order. Of the generating rows, in order: latents and noise
    [G, C, h, w], timesteps [G] in 1 … 1000 and sigmas [G]; in training σ = t / 1000.
    """
    showing = [index for index, row in enumerate(rows) if any(isinstance(segment, ImageSegment) for segment in row)]
    if len(features) != len(showing):
        raise ValueError(f"{len(features)} features are given for {len(showing)} images in the rows")
    image_of_row = [showing.index(index) if index in showing else None for index in range(len(rows))]
    tiles, squares, target_images = (
        unknown_images(codec_encoder(module.config), count) for count in (0, len(features), 0)
    )
    images = BatchImages(tiles, squares, target_images, image_of_row, range(len(latents)))
    batch = assemble(module.config, rows, images, timesteps=timesteps, sigmas=sigmas, noise=noise)
    batch = batch.to(features.device, module.meta_queries.dtype)
    per_row: Tensor = module(replace(batch, features=features, latents=latents))
    return per_row


def prompt(module: OpenUni, before: list[int], after: list[int], features: Tensor | None = None) -> Tensor:
    """Embeddings [P, D] of a prompt; features [K, D] stand between both texts, if there are any."""
    first, last = (
        module.embed(torch.tensor(ids, dtype=torch.int64, device=module.meta_queries.device)) for ids in (before, after)
    )
    return torch.cat([first, last] if features is None else [first, features, last])


@torch.no_grad()
def sample(
    module: OpenUni, prompts: Sequence[Tensor], unconditional: Tensor, noise: Tensor, settings: SamplingSettings
) -> Tensor:
    """Latents [B, C, h, w] generated from noise of that shape; prompts and the one that names nothing are [P_i, D]."""
    conditions = query_conditions(module, prompts)
    return sample_latents(
        module, conditions, query_conditions(module, [unconditional]).expand_as(conditions), noise, settings
    )


@torch.no_grad()
def answer(module: OpenUni, prompts: Sequence[Tensor], ends: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """Ids of the greedy answer to each prompt [P_i, D], up to the first of `ends`."""
    return greedy_answers(module, prompts, ends, max_new_tokens)


def _image(config: OpenUniConfig, before: list[int]) -> tuple[Segment, ...]:
    if not before:
        return ()
    image = ImageSegment(length=config.vision.tokens, sample=_NOBODY, for_question=False)
    return (text_segment(before), image)
