"""Makes harmon-tiny.safetensors, the weights that the quick start post-trains, from captions and pixels of scenes.

    python examples/tiny_base/pretrain.py

UniMRG is post-training: it presumes a model that can already see an image and draw one. Published Harmons learnt that
from millions of pictures; this learns it from some thousand generated ones, in two stages (README.md beside this file).
No depth map, no segmentation and no question is ever shown to it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from unimrg_trainer.engine.optimizer import set_learning_rate
from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.harmon.codec import encode_tokens
from unimrg_trainer.models.harmon.collate import decoder_grid
from unimrg_trainer.models.harmon.diffusion import q_sample, row_coefficients, row_loss, training_schedule
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes import generate

HERE = Path(__file__).parent
SCENES_SEED = 77
"""Not the seed of the quick start's scenes."""
HELD_OUT = 256


@dataclass(frozen=True)
class Stage:
    """Numbers of one stage."""

    steps: int
    images: int
    """Images of one step."""
    learning_rate: float = 3e-3
    warmup: int = 20


AUTOENCODER = Stage(steps=1300, images=32)
WHOLE_MODEL = Stage(steps=1200, images=16)
FROZEN_SHARE, LATER_RATE = 0.2, 0.4
"""In the second stage the autoregressor waits for this share of the steps, then learns at this share of the rate."""
CAPTION_QUESTION = "Describe the image in detail."


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--scenes", type=int, default=24_000)
    arguments.add_argument("--output", type=Path, default=HERE / "harmon-tiny.safetensors")
    given = arguments.parse_args()
    torch.set_num_threads(1)  # the same bits on every number of cores
    samples = draw_scenes(given.scenes + HELD_OUT)
    pretrain(samples, given.seed, given.output)


def pretrain(samples, seed, output, s0=AUTOENCODER, s1=WHOLE_MODEL):
    family = HarmonFamily({"variant": "Tiny", "dropout": "0"})
    # the language model must learn through the image's embedding, of which post-training takes a tenth of the gradient
    family.config = replace(family.config, feature_gradient_scale=1.0)
    torch.manual_seed(seed)
    model = family.build()
    started = time.process_time()
    rows = []
    train_autoencoder(family, model, samples[HELD_OUT:], samples[:HELD_OUT], s0, seed, rows)
    train_whole(family, model, samples[HELD_OUT:], samples[:HELD_OUT], s1, seed, rows)
    print(f"{time.process_time() - started:.0f} CPU-s")
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, output)
    return family, model


def draw_scenes(count: int) -> list[Sample]:
    with Pool(2) as pool:
        return pool.map(draw_scene, range(count), chunksize=100)


def draw_scene(index: int) -> Sample:
    scene = generate(SCENES_SEED, index, 32)
    return Sample(str(index), scene.image, caption=scene.caption)


def train_autoencoder(family, model, samples, held_out, stage, seed, rows):
    """Teach encoder and decoder to pass an image through the buffers alone, without the language model."""
    config, random = family.config, np.random.default_rng([seed, 0])
    parameters = list(model.mar.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0, betas=(0.9, 0.95), weight_decay=0.02)
    rate = WarmupCosine(stage.learning_rate, stage.warmup, stage.steps)

    def loss_of(batch, random):
        tokens = encode_tokens(family.codec, torch.from_numpy(np.stack([s.image for s in batch])))
        buffers = model.mar.encode(tokens)[:, : config.mar.buffers]
        nothing = np.zeros((len(batch), 0), dtype=np.int64)
        source, masked = decoder_grid(config.mar.buffers, config.tokens, nothing, nothing.astype(bool))
        conditions = model.mar.decode(buffers, torch.from_numpy(source), torch.from_numpy(masked)).flatten(0, 1)
        shape = (len(conditions), config.diffusion_repeats)
        timesteps = random.integers(config.train_timesteps, size=shape)
        coefficients = torch.from_numpy(row_coefficients(training_schedule(config.train_timesteps), timesteps)).float()
        noise = torch.from_numpy(random.standard_normal((*shape, config.codec_channels), dtype=np.float32))
        start = tokens.flatten(0, 1)[:, None].expand_as(noise)
        predicted = model.mar.diffloss.net(q_sample(start, noise, coefficients), torch.from_numpy(timesteps), conditions)
        flat = torch.from_numpy(np.flatnonzero(timesteps.reshape(-1) == 0))
        loss = row_loss(predicted.flatten(0, 1), start.flatten(0, 1), noise.flatten(0, 1), coefficients.flatten(1), flat).mean()
        return loss, mse_loss(predicted.chunk(2, -1)[0], noise)

    began = time.process_time()
    for step in range(stage.steps):
        batch = [samples[i] for i in random.integers(len(samples), size=stage.images)]
        loss, mse = loss_of(batch, random)
        update(optimizer, parameters, loss, rate.rate(step))
        if step % 100 == 99 or step == stage.steps - 1:
            with torch.no_grad():
                h = loss_of(held_out, np.random.default_rng(0))
            print(f"stage 0 {step + 1} train {loss.item():.4f} mse {mse.item():.4f} held {h[0].item():.4f} {h[1].item():.4f} {time.process_time() - began:.0f} CPU-s", flush=True)


def update(optimizer, parameters, loss, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class StoredPixel:
    """Pixel, of another image than the one that is shown."""
    name, objective, title, stored = "pixel", "Pixel", "reconstruction", True
    canonical_prompt, unconditional = PIXEL.canonical_prompt, 0.0
    def target(self, sample, size):
        return sample.maps["pixel"]


def tasks_of(batch, shift=0):
    captions = [Task(s, CAPTION_QUESTION, answer=s.caption) for s in batch]
    pixels = [Task(Sample(s.key, o.image, {"pixel": s.image}), PIXEL.canonical_prompt, map=StoredPixel()) for s, o in zip(batch, np.roll(np.array(batch, dtype=object), shift))]
    return captions, pixels


def keys_from_queries(model):
    config = model.config.language
    width = config.width // config.heads
    with torch.no_grad():
        for layer in model.llm.model.layers:
            q, k = layer.self_attn.q_proj, layer.self_attn.k_proj
            group = config.heads // config.key_value_heads
            for a, b in ((k.weight, q.weight), (k.bias, q.bias)):
                a.view(config.key_value_heads, width, -1).copy_(b.view(config.heads, width, -1)[::group])


def train_whole(family, model, samples, held_out, stage, seed, rows, regression=1.0, caption_weight=1.0):
    keys_from_queries(model)
    config, random = family.config, np.random.default_rng([seed, 1])
    slow = list(model.mar.parameters())
    fast = [p for n, p in model.named_parameters() if not n.startswith("mar.")]
    optimizer = torch.optim.AdamW([{"params": fast, "share": 1.0}, {"params": slow, "share": 0.0}], lr=0, betas=(0.9, 0.95), weight_decay=0.02)
    rate = WarmupCosine(stage.learning_rate, stage.warmup, stage.steps)
    decoder_input = []
    hook = model.mar.decoder_embed.register_forward_pre_hook(lambda m, x: decoder_input.append(x[0]))

    def losses(batch, step, shift=0):
        decoder_input.clear()
        rng = partial(generator, seed, step)
        captions, pixels = tasks_of(batch, shift)
        rng_for = lambda o, r, p: generator(seed, step, r, o, p)
        planned = family.plan("Understanding", list(enumerate(captions)), rng_for) + family.plan("Pixel", list(enumerate(pixels)), rng_for)
        prepared = family.prepare(family.collate(planned, rng_for), torch.device("cpu"), torch.float32)
        sums = model(prepared)
        n = len(batch)
        terms = [sum(r.loss_terms for r in planned[a:b]) for a, b in ((0, n), (n, 2 * n))]
        with torch.no_grad():
            own = model.mar.encode(prepared.latents[prepared.targets])[:, :config.mar.buffers]
        aux = mse_loss(decoder_input[0][:, :config.mar.buffers], own)
        return sums[:n].sum() / terms[0], sums[n:].sum() / terms[1], aux

    began = time.process_time()
    for step in range(stage.steps):
        frozen = step < FROZEN_SHARE * stage.steps
        for p in slow: p.requires_grad_(not frozen)
        optimizer.param_groups[1]["share"] = 0.0 if frozen else LATER_RATE
        batch = [samples[i] for i in random.integers(len(samples), size=stage.images)]
        caption, pixel, aux = losses(batch, step)
        update(optimizer, [p for p in fast + slow if p.requires_grad], caption_weight * caption + pixel + regression * aux, rate.rate(step))
        if step % 100 == 99 or step == stage.steps - 1:
            with torch.no_grad():
                h = losses(held_out, -1); g = losses(held_out, -1, 1)
            print(f"stage 1 {step + 1} caption {h[0]:.4f} pixel {h[1]:.4f} shuffled {g[1]:.4f} aux {h[2]:.4f} {time.process_time() - began:.0f} CPU-s", flush=True)
    hook.remove()


if __name__ == "__main__":
    main()
