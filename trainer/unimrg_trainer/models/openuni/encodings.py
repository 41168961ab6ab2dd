"""What OpenUni's frozen parts read and make: the vision tower of images, the codec of what is learnt."""

from __future__ import annotations

import numpy as np

from unimrg_api.sizes.openuni import DcAeConfig, OpenUniConfig
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.models.common.encodings import Encoder, Encoding


def codec_encoder(config: OpenUniConfig) -> Encoder:
    """The codec, at the size of generated images: float16 [C, h, w]."""
    codec = "dcae" if isinstance(config.codec, DcAeConfig) else "dct"
    return Encoder(f"openuni-{codec}-{config.image_size}", config.image_size, config.latent_shape, np.float16)


def image_encoding(config: OpenUniConfig, *, for_question: bool) -> Encoding:
    """The image as the tower reads it: at the tower's size for a question, at that of generated images otherwise.

    A tower's features are larger than the image, so shards never hold them.
    """
    size = config.vision.size if for_question else config.image_size
    tower = Encoder(f"openuni-tower-{size}", size, (config.vision.tokens, config.language.width), np.float32)
    return tower.of_image("stretched", squash)
