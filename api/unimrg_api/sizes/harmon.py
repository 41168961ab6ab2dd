"""Every number of a Harmon, and the three sizes that a job can name (docs/method/harmon.md).

The small variant for laptops and tests differs from the published ones in these values only, two of which name its
codec and its tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unimrg_api.sizes.qwen2 import Qwen2Config
from unimrg_api.spec_model import HarmonMaskRateSpec


@dataclass(frozen=True)
class MarConfig:
    """The masked autoregressive encoder and decoder around the language model, and the diffusion head."""

    width: int
    encoder_blocks: int
    decoder_blocks: int
    heads: int
    head_width: int
    head_blocks: int
    buffers: int = 64
    grid: int = 16
    """Side of the square that the learned positions are laid out on; interpolated to the token grid."""
    mlp_ratio: int = 4
    classes: int = 1000
    """Rows of the class embedding, which published checkpoints hold and nothing reads."""
    time_features: int = 256
    dropout: float = 0.1


@dataclass(frozen=True)
class Kl16Config:
    """The frozen image codec `kl16`; the defaults are published, tests use narrower ones."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_channels: int = 16
    norm_groups: int = 32
    scale: float = 0.2325
    """Latents are the posterior's mean times this."""

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True)
class HarmonConfig:
    """One Harmon at one image size."""

    variant: str
    language: Qwen2Config
    mar: MarConfig
    image_size: int
    codec: str
    """Name of the image codec: `kl16` or `dct`."""
    codec_stride: int
    codec_channels: int
    tokenizer: str
    """Name of the tokenizer: `tiny`, which ships with us, or `qwen2.5`, which is looked for among the assets."""
    mask_mean: float = 1.0
    mask_deviation: float = 0.25
    mask_minimum: float = 0.7
    """The share of masked tokens is normal, truncated to [mask_minimum, 1]."""
    train_timesteps: int = 1000
    diffusion_repeats: int = 4
    """How often a masked token is used, each time with its own time step and noise (`diffusion_batch_mul`)."""
    feature_gradient_scale: float = 0.1
    """The gradient of the understanding embedding h is multiplied by this."""
    question_limit: int = 1472
    prompt_limit: int = 128
    """Longest text after the image, in tokens, when answering and when generating."""

    @property
    def side(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.codec_stride

    @property
    def tokens(self) -> int:
        """Tokens of one image, without buffers."""
        return self.side**2

    @property
    def image_slots(self) -> int:
        """Places that one image takes in the language model: its tokens, then the buffers."""
        return self.tokens + self.mar.buffers


def tiny(dropout: float = 0.1) -> HarmonConfig:
    """The same classes with small numbers: trains on two CPU cores."""
    return HarmonConfig(
        variant="Tiny",
        language=Qwen2Config(
            width=96,
            layers=3,
            heads=4,
            key_value_heads=2,
            feed_forward=192,
            vocabulary=768,
            max_positions=2048,
            initial_deviation=0.1,  # about width^−½: from 0.02 a network this narrow hardly leaves its plateau
        ),
        mar=MarConfig(
            width=96,
            encoder_blocks=2,
            decoder_blocks=2,
            heads=3,
            head_width=96,
            head_blocks=2,
            buffers=16,
            grid=6,
            classes=10,
            time_features=64,
            dropout=dropout,
        ),
        image_size=32,
        codec="dct",
        codec_stride=4,
        codec_channels=48,
        tokenizer="tiny",
        question_limit=128,
    )


def half_billion(dropout: float = 0.1) -> HarmonConfig:
    """Harmon-0.5B at 512×512."""
    language = Qwen2Config(width=896, layers=24, heads=14, key_value_heads=2, feed_forward=4864)
    return _published("0.5B", language, MarConfig(768, 12, 12, 12, head_width=1024, head_blocks=6, dropout=dropout))


def one_and_a_half_billion(dropout: float = 0.1) -> HarmonConfig:
    """Harmon-1.5B at 512×512."""
    language = Qwen2Config(width=1536, layers=28, heads=12, key_value_heads=2, feed_forward=8960)
    return _published("1.5B", language, MarConfig(1280, 20, 20, 16, head_width=1536, head_blocks=12, dropout=dropout))


def _published(variant: str, language: Qwen2Config, mar: MarConfig) -> HarmonConfig:
    """What the published sizes have in common."""
    return HarmonConfig(
        variant, language, mar, image_size=512, codec="kl16", codec_stride=16, codec_channels=16, tokenizer="qwen2.5"
    )


VARIANTS = {"Tiny": tiny, "0.5B": half_billion, "1.5B": one_and_a_half_billion}


def config_of(variant: str, dropout: float = 0.1) -> HarmonConfig:
    """Return the configuration of one of VARIANTS."""
    return VARIANTS[variant](dropout)


def with_mask_rate(config: HarmonConfig, rate: HarmonMaskRateSpec) -> HarmonConfig:
    """Return the configuration with the mask rate that a job chooses."""
    mean, deviation, minimum = (float(text) for text in (rate.mean, rate.deviation, rate.minimum))
    return replace(config, mask_mean=mean, mask_deviation=deviation, mask_minimum=minimum)
