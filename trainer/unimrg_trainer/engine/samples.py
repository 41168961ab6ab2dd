"""The grid of samples: every map that a job trains, generated for a few held-out images, beside what is true."""

from __future__ import annotations

import numpy as np

from unimrg_trainer.data.mixture import Data
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.evaluation.benchmarks.base import Item
from unimrg_trainer.evaluation.pictures import GridRow
from unimrg_trainer.evaluation.runner import Runner
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.requests import GenerateRequest

PREVIEW_IMAGES = 4
"""Rows of the grid for images of the split `preview`, which have no ground truth."""


def draw_samples(setup: Setup, held_out: Data, runner: Runner) -> list[GridRow]:
    """Generate every map that the job trains, for held-out images and for previews; nothing for `sampleImages: 0`."""
    maps = [objective.map for objective in setup.objectives if objective.map is not None]
    prompts = [objective.inference_prompt() for objective in setup.objectives if objective.map is not None]
    count = min(setup.job.spec.stages.evaluate.sample_images, len(held_out.images))
    if count == 0 or not maps:
        return []
    samples = [(f"held-out {index}", held_out.image_sample(index)) for index in range(count)]
    if setup.has_split("preview"):
        previews = setup.open_data("preview")
        chosen = previews.images[:PREVIEW_IMAGES]
        samples += [(f"preview {index}", previews.image_sample(index)) for index in chosen]
    seed = setup.job.spec.training.seed
    items = [
        Item(label, GenerateRequest(prompt, seed, row, sample.image))
        for prompt in prompts
        for row, (label, sample) in enumerate(samples)
    ]
    images = [image for image in runner.ask(items, "samples") if isinstance(image, np.ndarray)]
    grid = []
    for row, (label, sample) in enumerate(samples):
        assert sample.image is not None, label
        generated = {map.name: images[index * len(samples) + row] for index, map in enumerate(maps)}
        truth = {map.name: map.target(sample, len(generated[map.name])) for map in maps if map.name in sample.maps}
        grid.append(GridRow(label, squash(sample.image, max(map(len, generated.values()))), generated, truth))
    return grid
