"""Makes harmon-tiny.safetensors, the weights that the quick start trains further, from pictures and captions of scenes.

    python examples/tiny_base/pretrain.py

UniMRG is post-training: it presumes a model that can already see an image and draw one. Published Harmons learnt that
from millions of pictures; this one learns it from some thousand generated ones, in two stages (see the README beside
this file). It is never shown a depth map, a segmentation or a question.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from curves import Curves
from material import DRAWINGS, Drawing, draw_scene, image_of, pick
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.engine.schedule import Schedule
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.harmon.codec import encode_tokens
from unimrg_trainer.models.harmon.collate import decoder_grid
from unimrg_trainer.models.harmon.diffusion import q_sample, row_coefficients, row_loss, training_schedule
from unimrg_trainer.models.harmon.diffusion_head import DenoisingNetwork
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.mar import MaskedAutoregressor
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
HELD_OUT = 128
REPORT_EVERY = 100
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns."""

    steps: int
    images: int
    """Images in each step."""
    learning_rate: float = 3e-3
    warmup_steps: int = 20


AUTOENCODER, WHOLE_MODEL = Stage(steps=1500, images=16), Stage(steps=4000, images=16)
CAPTIONS = 6
"""Images of a step, in the second stage, whose captions are learnt too; captions need less practice than drawing."""
FROZEN_SHARE, RATE_AFTERWARDS = 0.2, 0.4
"""In the second stage encoder and decoder wait for this share of the steps, then learn at this share of the rate."""


class Optimizer:
    """Muon for the large matrices, AdamW for everything else, at one learning rate.

    Muon takes the narrow encoder and decoder off their plateau, where every place shows the mean of its row, in a third
    of the steps that AdamW needs.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        named = dict(parameters)
        large = {name for name, p in named.items() if p.ndim == 2 and min(p.shape) >= 96 and "embed_tokens" not in name}
        self.parameters = list(named.values())
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon([named[name] for name in named if name in large], lr=0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([named[name] for name in named if name not in large], lr=0, betas=(0.9, 0.95)),
        ]

    def step(self, rate: float) -> None:
        """Update at this learning rate, with gradients clipped to norm 1, and forget them."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part in self._parts:
            for group in part.param_groups:
                group.update(lr=rate, weight_decay=0.02)
            part.step()
            part.zero_grad()


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of the rows and columns of a square of side² places that spans the image: [side², width]."""
    angles = ((torch.arange(side) + 0.5) / side)[:, None] * torch.linspace(0.5, 4, width // 4) * math.pi
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], dim=1)


@torch.no_grad()
def look_nearby(mar: MaskedAutoregressor) -> None:
    """Begin with positions that know their neighbours, and with attention to what is near.

    The buffers are laid out on the image as a square. Keys equal queries, so that places attend to those like them.
    """
    buffers = mar.buffer_count
    for positions in (mar.encoder_pos_embed_learned, mar.decoder_pos_embed_learned):
        places, width = positions.shape[1] - buffers, positions.shape[2]
        positions[0] = torch.cat([waves(math.isqrt(count), width) for count in (buffers, places)])
    for name, weight in mar.named_parameters():
        if name.endswith("attn.qkv.weight"):
            queries, keys, _ = weight.chunk(3)
            keys.copy_(queries)


def diffusion_loss(
    net: DenoisingNetwork, config: HarmonConfig, conditions: Tensor, tokens: Tensor, random: np.random.Generator
) -> Tensor:
    """Mean loss of tokens [N, C] given their conditions [N, d], each at one time step."""
    timesteps = random.integers(config.train_timesteps, size=len(tokens))
    noise = torch.from_numpy(random.standard_normal(tokens.shape, dtype=np.float32))
    coefficients = torch.from_numpy(row_coefficients(training_schedule(config.train_timesteps), timesteps)).float()
    noisy = q_sample(tokens, noise, coefficients)
    predicted = net(noisy[:, None], torch.from_numpy(timesteps)[:, None], conditions)[:, 0]
    return row_loss(predicted, tokens, noise, coefficients, torch.from_numpy(np.flatnonzero(timesteps == 0))).mean()


def train_autoencoder(
    family: HarmonFamily, model: Harmon, train: Sequence[Sample], held_out: Sequence[Sample], seed: int, curves: Curves
) -> None:
    """Teach encoder, decoder and diffusion head alone to pass an image through the buffers.

    A linear readout, thrown away afterwards, is learnt beside the head: its gradient has no noise in it.
    """
    config, mar = family.config, model.mar
    look_nearby(mar)
    readout = nn.Linear(config.mar.width, config.codec_channels)
    optimizer = Optimizer([*mar.named_parameters(), *readout.named_parameters()])

    def losses(images: Sequence[np.ndarray], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        tokens = encode_tokens(family.codec, torch.from_numpy(np.stack(images)))
        nothing = np.zeros((len(images), 0), dtype=np.int64)  # no token is visible
        grid, masked = decoder_grid(config.mar.buffers, config.tokens, nothing, nothing.astype(bool))
        buffers = mar.encode(tokens)[:, : config.mar.buffers]
        conditions = mar.decode(buffers, torch.from_numpy(grid), torch.from_numpy(masked))
        denoising = diffusion_loss(mar.diffloss.net, config, conditions.flatten(0, 1), tokens.flatten(0, 1), random)
        return mse_loss(readout(conditions), tokens), denoising

    rate = Schedule(AUTOENCODER.learning_rate, AUTOENCODER.warmup_steps, AUTOENCODER.steps)
    for step in range(AUTOENCODER.steps):
        random = generator(seed, step, "autoencoder")
        chosen, requests = pick(train, AUTOENCODER.images, random)
        drawings = [DRAWINGS[request](image_of(sample)) for sample, request in zip(chosen, requests, strict=True)]
        sum(losses(drawings, random)).backward()
        optimizer.step(rate.rate(step))
        if (step + 1) % REPORT_EVERY == 0:
            with torch.no_grad():
                readout_error, denoising = losses(
                    [image_of(sample) for sample in held_out], generator(seed, -1, "autoencoder")
                )
            curves.add("autoencoder", step + 1, readout=readout_error.item(), pixel=denoising.item())


@torch.no_grad()
def keys_from_queries(model: Harmon) -> None:
    """Begin the language model with attention to places like one's own: each key head equals a query head."""
    config = model.config.language
    heads, groups = config.heads, config.key_value_heads
    for layer in model.llm.model.layers:
        queries, keys = layer.self_attn.q_proj, layer.self_attn.k_proj
        for of_keys, of_queries in ((keys.weight, queries.weight), (keys.bias, queries.bias)):
            of_keys.view(groups, config.width // heads, -1).copy_(
                of_queries.view(heads, config.width // heads, -1)[:: heads // groups]
            )


def train_whole_model(
    family: HarmonFamily, model: Harmon, train: Sequence[Sample], held_out: Sequence[Sample], seed: int, curves: Curves
) -> None:
    """Teach all of it to say the caption of an image and to draw the image again."""
    keys_from_queries(model)
    waiting = [p for name, p in model.mar.named_parameters() if not name.startswith("diffloss.")]
    ids = {id(p) for p in waiting}
    slow = Optimizer((n, p) for n, p in model.named_parameters() if id(p) in ids)
    fast = Optimizer((n, p) for n, p in model.named_parameters() if id(p) not in ids)
    into_decoder: list[Tensor] = []
    model.mar.decoder_embed.register_forward_pre_hook(lambda _, inputs: into_decoder.append(inputs[0]))

    def losses(
        samples: Sequence[Sample], step: int, shown: Sequence[Sample], requests: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Caption, drawing, and how far the language model's buffers are from those of what is to be drawn."""

        def rng(objective: str, row: int, purpose: str) -> np.random.Generator:
            return generator(seed, step, row, objective, purpose)

        captions = [Task(one, PIXEL.canonical_prompt, answer=one.caption) for one in samples[:CAPTIONS]]
        drawings = [
            Task(Sample(one.key, other.image, {"pixel": DRAWINGS[request](image_of(one))}), request, map=Drawing())
            for one, other, request in zip(samples, shown, requests, strict=True)
        ]
        rows = family.plan("Understanding", list(enumerate(captions)), rng)
        rows += family.plan("Pixel", list(enumerate(drawings)), rng)
        batch = family.prepare(family.collate(rows, rng), CPU, torch.float32)
        into_decoder.clear()
        sums, parts = model(batch), (slice(CAPTIONS), slice(CAPTIONS, None))
        caption, drawing = (sums[part].sum() / sum(row.loss_terms for row in rows[part]) for part in parts)
        assert batch.latents is not None
        with torch.no_grad():
            own = model.mar.encode(batch.latents[batch.targets])[:, : model.mar.buffer_count]
        return caption, drawing, mse_loss(into_decoder[0][:, : model.mar.buffer_count], own)

    rate = Schedule(WHOLE_MODEL.learning_rate, WHOLE_MODEL.warmup_steps, WHOLE_MODEL.steps)
    for step in range(WHOLE_MODEL.steps):
        frozen = step < FROZEN_SHARE * WHOLE_MODEL.steps
        for parameter in slow.parameters:
            parameter.requires_grad_(not frozen)
        samples, requests = pick(train, WHOLE_MODEL.images, generator(seed, step, "whole model"))
        sum(losses(samples, step, samples, requests)).backward()
        fast.step(rate.rate(step))
        if not frozen:
            slow.step(rate.rate(step) * RATE_AFTERWARDS)
        if (step + 1) % REPORT_EVERY == 0:
            with torch.no_grad():
                asked = [PIXEL.canonical_prompt] * len(held_out)
                caption, pixel, _ = losses(held_out, -1, held_out, asked)
                _, shuffled, _ = losses(held_out, -1, [*held_out[1:], held_out[0]], asked)
            curves.add(
                "whole model",
                step + 1,
                caption=caption.item(),
                pixel=pixel.item(),
                pixel_of_another_image=shuffled.item(),
            )


def main() -> None:
    """Draw scenes, run both stages, write weights and curves."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny Harmon that the quick start begins with.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=23_872)
    parser.add_argument("--output", type=Path, default=HERE / "harmon-tiny.safetensors")
    parser.add_argument("--curves", type=Path, default=HERE.parents[1] / "docs" / "pictures")
    given = parser.parse_args()
    with Pool(2) as pool:
        samples = pool.map(draw_scene, range(HELD_OUT + given.scenes), chunksize=100)
    pretrain(samples, given.seed, given.output, given.curves)


def pretrain(samples: Sequence[Sample], seed: int, output: Path, folder: Path) -> None:
    """Run both stages; write the weights, and their curves into `folder`. The first samples are held out."""
    started = time.process_time()
    torch.set_num_threads(1)  # the same sums on any number of cores
    torch.manual_seed(seed)
    family = HarmonFamily({"variant": "Tiny", "dropout": "0", "maskRate": {"minimum": "0.9"}})
    # the language model learns to read the image here, so it gets all of the gradient; post-training takes a tenth
    family.config = replace(family.config, feature_gradient_scale=1.0)
    model, curves = family.build(), Curves()
    held_out, train = samples[:HELD_OUT], samples[HELD_OUT:]
    train_autoencoder(family, model, train, held_out, seed, curves)
    train_whole_model(family, model, train, held_out, seed, curves)
    save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, output)
    curves.write(folder)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    logger.info("%s: sha256 %s, after %.0f s of one core", output, digest, time.process_time() - started)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
