"""What Show-o's frozen parts read and make: codes of what is generated, codes or CLIP's features of what is read."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from PIL import Image

from unimrg_api.sizes.showo import MagvitConfig, ShowOConfig
from unimrg_trainer.maps.geometry import resize, squash
from unimrg_trainer.models.common.encodings import Encoder, Encoding
from unimrg_trainer.models.showo.vision import centre_crop


class Use(StrEnum):
    """What an input image is read for, which decides its square and its size."""

    QUESTION = "question"
    """The middle of the image: of the tower's size, or of the generated images' size where codes are read."""
    SOURCE = "source"
    """The stretched image, of the size that generations read."""


def picture_encoder(config: ShowOConfig) -> Encoder:
    """The image tokenizer, at the size of generated images: int16 [N], codes in raster order."""
    return _tokenizer(config, config.image_size)


def view_encoder(config: ShowOConfig) -> Encoder:
    """What reads an image that is not a picture: the tower, or the image tokenizer at the size of sources.

    A tower's features are larger than the image, so shards never hold them.
    """
    if config.clip is None:
        return _tokenizer(config, config.source_size)
    shape = (config.source_tokens, config.clip.width)
    return Encoder(f"showo-clip-{config.source_size}", config.source_size, shape, np.float32)


def image_encoding(config: ShowOConfig, use: Use) -> Encoding:
    """The image as it is read in a question, or by a generation."""
    if use is Use.QUESTION:
        encoder = view_encoder(config) if config.clip else picture_encoder(config)
        return encoder.of_image("middle", centre_crop)
    reduced = f"reduced-{config.source_detail}" if config.source_detail else "stretched"
    return view_encoder(config).of_image(reduced, source_geometry(config))


def source_geometry(config: ShowOConfig) -> Callable[[np.ndarray, int], np.ndarray]:
    """How an image becomes the square that generations read: stretched, and first reduced where configured."""
    detail = config.source_detail
    if detail is None:
        return squash
    return lambda image, size: resize(squash(image, detail), size, Image.Resampling.BICUBIC)


def _tokenizer(config: ShowOConfig, size: int) -> Encoder:
    tokenizer = "magvitv2" if isinstance(config.codes, MagvitConfig) else "blocks"
    return Encoder(f"showo-{tokenizer}-{size}", size, ((size // config.codes.stride) ** 2,), np.int16)
