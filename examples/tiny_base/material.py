"""What the tiny base learns from: pictures and captions of scenes, and requests for several drawings of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unimrg_trainer.maps.pixel import PIXEL, Pixel
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes import generate

SCENES_SEED = 77
"""Another one than the quick start's: the base has seen none of its scenes."""
IMAGE_SIZE = 32


def draw_scene(number: int) -> Sample:
    """Draw picture and caption of one scene."""
    scene = generate(SCENES_SEED, number, IMAGE_SIZE)
    return Sample(str(number), scene.image, caption=scene.caption)


def image_of(sample: Sample) -> np.ndarray:
    """Return the picture of a scene."""
    assert sample.image is not None
    return sample.image


def grey_of(plane: np.ndarray) -> np.ndarray:
    """Turn [H, W] into a grey picture."""
    return np.repeat(plane[:, :, None], 3, axis=2).astype(np.uint8)


DRAWINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    PIXEL.canonical_prompt: lambda image: image,
    "Draw the image as it is.": lambda image: image,
    "Draw the negative of the image.": lambda image: 255 - image,
    "Draw the image in grey.": lambda image: grey_of(image.mean(axis=2)),
    "Draw the red light of the image.": lambda image: grey_of(image[:, :, 0]),
    "Draw the blue light of the image.": lambda image: grey_of(image[:, :, 2]),
}
"""Requests, and what is then drawn of an image. There are several, because a model that draws one thing whatever it is
asked for learns the next request by forgetting the first; published Harmons draw what a text says."""


def pick(samples: Sequence[Sample], count: int, random: np.random.Generator) -> tuple[list[Sample], list[str]]:
    """Draw some scenes, and a request for each."""
    chosen = [samples[number] for number in random.integers(len(samples), size=count)]
    return chosen, [str(request) for request in random.choice(list(DRAWINGS), size=count)]


class Drawing(Pixel):
    """What a request asks for, in the place of the map `pixel`."""

    def target(self, sample: Sample, size: int) -> np.ndarray:
        return sample.maps[self.name]
