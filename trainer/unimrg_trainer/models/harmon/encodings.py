"""What Harmon reads of a picture: the codec's tokens, in half precision (docs/method/harmon.md)."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from unimrg_api.sizes.harmon import HarmonConfig
from unimrg_trainer.maps.geometry import pad_square
from unimrg_trainer.maps.pixel import PIXEL
from unimrg_trainer.models.common.encodings import Encoder, Encoding


class Geometry(StrEnum):
    """How an image becomes a square (docs/method/recipe.md)."""

    PAD = "pad"
    """Centred on a grey square: for questions."""
    SQUASH = "squash"
    """Stretched: for the source of a generation."""


def codec_encoder(config: HarmonConfig) -> Encoder:
    """The codec, at the size of images: float16 [S, C], tokens in raster order."""
    shape = (config.tokens, config.codec_channels)
    return Encoder(f"harmon-{config.codec}-{config.image_size}", config.image_size, shape, np.float16)


def image_encoding(config: HarmonConfig, geometry: Geometry) -> Encoding:
    """The image as a row reads it; the stretched one is also what the map `pixel` learns."""
    encoder = codec_encoder(config)
    return encoder.of_image("padded", pad_square) if geometry is Geometry.PAD else encoder.of_map(PIXEL)
