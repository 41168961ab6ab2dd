"""Makes harmon-tiny.safetensors, the weights that the quick start trains further, from pictures and captions of scenes.

    python examples/tiny_base/pretrain.py

UniMRG is post-training: it presumes a model that can already see an image and draw one. Published Harmons learnt that
from millions of pictures; this one learns it from some thousand generated ones, in two stages (see the README beside
this file). It is never shown a depth map, a segmentation or a question.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from unimrg_trainer.engine.schedule import WarmupCosine
from unimrg_trainer.maps.pixel import PIXEL, Pixel
from unimrg_trainer.models.harmon.codec import encode_tokens
from unimrg_trainer.models.harmon.collate import decoder_grid
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.mar import MaskedAutoregressor
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes import generate

HERE = Path(__file__).parent
SCENES_SEED = 77
"""Another one than the quick start's: the base has seen none of its scenes."""
HELD_OUT = 128
IMAGE_SIZE = 32
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns."""

    steps: int
    images: int
    """Images in each step."""
    learning_rate: float = 3e-3
    warmup_steps: int = 20


AUTOENCODER, WHOLE_MODEL = Stage(steps=1000, images=16), Stage(steps=900, images=16)
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


@dataclass
class Curves:
    """Held-out numbers over both stages: to the terminal now, to a table and a picture at the end."""

    rows: list[dict[str, float | str]] = field(default_factory=list)

    def add(self, stage: str, step: int, **numbers: float) -> None:
        self.rows.append({"stage": stage, "step": step, **{name: round(value, 4) for name, value in numbers.items()}})
        print(", ".join(f"{name} {value}" for name, value in self.rows[-1].items()), flush=True)

    def write(self, folder: Path) -> None:
        """Write tiny-base-curves.csv and tiny-base-curves.png."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with (folder / "tiny-base-curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), constrained_layout=True)
        for axis, stage in zip(axes, ("autoencoder", "whole model"), strict=True):
            rows = [row for row in self.rows if row["stage"] == stage]
            for name in list(rows[0])[2:]:
                axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name.replace("_", " "))
            axis.set(title=stage, xlabel="step", ylabel="held-out loss", yscale="log")
            axis.legend(frameon=False)
        figure.savefig(folder / "tiny-base-curves.png", dpi=110, metadata={"Software": ""})


def draw_scene(number: int) -> Sample:
    """Draw picture and caption of one scene."""
    scene = generate(SCENES_SEED, number, IMAGE_SIZE)
    return Sample(str(number), scene.image, caption=scene.caption)


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
    for block in [*mar.encoder_blocks, *mar.decoder_blocks]:
        queries, keys, _ = block.attn.qkv.weight.chunk(3)  # type: ignore[union-attr,operator]
        keys.copy_(queries)


def train_autoencoder(
    family: HarmonFamily, model: Harmon, train: Sequence[Sample], held_out: Sequence[Sample], seed: int, curves: Curves
) -> None:
    """Teach encoder and decoder alone to pass an image through the buffers, to a readout that is thrown away."""
    config, mar = family.config, model.mar
    look_nearby(mar)
    readout = nn.Linear(config.mar.width, config.codec_channels)
    optimizer = Optimizer([*mar.named_parameters(), *readout.named_parameters()])

    def loss_of(samples: Sequence[Sample]) -> Tensor:
        images = np.stack([sample.image for sample in samples if sample.image is not None])
        tokens = encode_tokens(family.codec, torch.from_numpy(images))
        nothing = np.zeros((len(samples), 0), dtype=np.int64)  # no token is visible
        grid, masked = decoder_grid(config.mar.buffers, config.tokens, nothing, nothing.astype(bool))
        buffers = mar.encode(tokens)[:, : config.mar.buffers]
        return mse_loss(readout(mar.decode(buffers, torch.from_numpy(grid), torch.from_numpy(masked))), tokens)

    rate = WarmupCosine(AUTOENCODER.learning_rate, AUTOENCODER.warmup_steps, AUTOENCODER.steps)
    for step in range(AUTOENCODER.steps):
        chosen = generator(seed, step, "autoencoder").integers(len(train), size=AUTOENCODER.images)
        loss_of([train[number] for number in chosen]).backward()
        optimizer.step(rate.rate(step))
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                curves.add("autoencoder", step + 1, squared_error=loss_of(held_out).item())


class StoredPixel(Pixel):
    """The map `pixel`, of another image than the one that the row shows."""

    def target(self, sample: Sample, size: int) -> np.ndarray:
        return sample.maps[self.name]


@torch.no_grad()
def keys_from_queries(model: Harmon) -> None:
    """Begin the language model with attention to places like one's own: each key head equals a query head."""
    config = model.config.language
    for layer in model.llm.model.layers:
        queries, keys = layer.self_attn.q_proj, layer.self_attn.k_proj
        for of_keys, of_queries in ((keys.weight, queries.weight), (keys.bias, queries.bias)):
            by_head = of_queries.view(config.key_value_heads, config.heads // config.key_value_heads, -1)
            size = len(of_keys) // config.key_value_heads * (of_keys[0].numel())
            of_keys.copy_(by_head[:, 0].reshape(-1)[: of_keys.numel()].view_as(of_keys)) if False else None
            del size
        heads, groups = config.heads, config.key_value_heads
        width = config.width // heads
        for of_keys, of_queries in ((keys.weight, queries.weight), (keys.bias, queries.bias)):
            of_keys.view(groups, width, -1).copy_(of_queries.view(heads, width, -1)[:: heads // groups])


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

    def losses(samples: Sequence[Sample], step: int, shown: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Caption, pixel, and how far the language model's buffers are from the image's own."""
        rng = lambda objective, row, purpose: generator(seed, step, row, objective, purpose)  # noqa: E731
        captions = [Task(one, PIXEL.canonical_prompt, answer=one.caption) for one in samples]
        pixels = [
            Task(Sample(one.key, other.image, {"pixel": one.image}), PIXEL.canonical_prompt, map=StoredPixel())
            for one, other in zip(samples, shown, strict=True)
            if one.image is not None
        ]
        rows = family.plan("Understanding", list(enumerate(captions)), rng)
        rows += family.plan("Pixel", list(enumerate(pixels)), rng)
        batch = family.prepare(family.collate(rows, rng), CPU, torch.float32)
        into_decoder.clear()
        sums, count = model(batch), len(samples)
        means = [
            sums[part].sum() / sum(row.loss_terms for row in rows[part]) for part in (slice(count), slice(count, None))
        ]
        assert batch.latents is not None
        with torch.no_grad():
            own = model.mar.encode(batch.latents[batch.targets])[:, : model.mar.buffer_count]
        return means[0], means[1], mse_loss(into_decoder[0][:, : model.mar.buffer_count], own)

    rate = WarmupCosine(WHOLE_MODEL.learning_rate, WHOLE_MODEL.warmup_steps, WHOLE_MODEL.steps)
    for step in range(WHOLE_MODEL.steps):
        frozen = step < FROZEN_SHARE * WHOLE_MODEL.steps
        for parameter in slow.parameters:
            parameter.requires_grad_(not frozen)
        chosen = generator(seed, step, "whole model").integers(len(train), size=WHOLE_MODEL.images)
        samples = [train[number] for number in chosen]
        sum(losses(samples, step, samples)).backward()
        fast.step(rate.rate(step))
        if not frozen:
            slow.step(rate.rate(step) * RATE_AFTERWARDS)
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                caption, pixel, _ = losses(held_out, -1, held_out)
                _, shuffled, _ = losses(held_out, -1, [*held_out[1:], held_out[0]])
            curves.add("whole model", step + 1, caption=caption.item(), pixel=pixel.item(), pixel_of_another_image=shuffled.item())


def main() -> None:
    """Draw scenes, run both stages, write weights and curves."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny Harmon that the quick start begins with.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=24_000)
    parser.add_argument("--output", type=Path, default=HERE / "harmon-tiny.safetensors")
    parser.add_argument("--curves", type=Path, default=HERE.parents[1] / "docs" / "pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the same sums on any number of cores
    torch.manual_seed(given.seed)
    with Pool(2) as pool:
        samples = pool.map(draw_scene, range(HELD_OUT + given.scenes), chunksize=100)
    train_all(samples, given.seed, given.output, given.curves)


def train_all(samples, seed, output, folder):
    started = time.process_time()
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
    print(f"{output}: sha256 {digest}, after {time.process_time() - started:.0f} s of one core")


if __name__ == "__main__":
    main()
