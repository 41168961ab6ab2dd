"""Every number of an OpenUni, and the sizes that a job can name (docs/method/openuni.md).

The small variant for laptops and tests differs from the published ones in these values only; two of them name its codec
and its tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimrg_api.sizes.qwen2 import Qwen2Config


@dataclass(frozen=True)
class VisionConfig:
    """The frozen understanding encoder: a vision transformer, 2×2 merging of its tokens, and two linear layers."""

    size: int = 448
    """Side of the square that it sees, in pixels."""
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    layer_scale: float = 0.1
    """First value of the learned scales of both halves of a layer."""
    seed: int | None = None
    """Where no weights exist, they are drawn from this seed; None: they are read from a file."""

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Places that one image takes in the language model."""
        return (self.side // 2) ** 2


@dataclass(frozen=True)
class ConnectorConfig:
    """The bidirectional transformer between the language model and the projector; as wide as the language model."""

    layers: int
    heads: int
    feed_forward: int


@dataclass(frozen=True)
class SanaConfig:
    """The diffusion transformer over the latents."""

    layers: int
    heads: int
    head_width: int
    cross_heads: int
    cross_head_width: int
    caption_width: int = 2304
    """Width of its conditions, which the projector gives."""

    @property
    def width(self) -> int:
        """Width of its tokens."""
        return self.heads * self.head_width


@dataclass(frozen=True)
class DcAeConfig:
    """The deep-compression autoencoder; the defaults are those of dc-ae-f32c32-sana-1.1."""

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    attention_levels: int = 3
    """The lowest so many levels are EfficientViT blocks, the others residual blocks."""
    head_width: int = 32
    channels: int = 32
    scale: float = 0.41407
    """Latents are the encoder's output times this."""

    @property
    def stride(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class OpenUniConfig:
    """One OpenUni at one image size."""

    variant: str
    language: Qwen2Config
    vision: VisionConfig
    connector: ConnectorConfig
    sana: SanaConfig
    codec: DcAeConfig | int
    """The autoencoder of the images to generate; a number is the stride of the weightless cosine codec."""
    tokenizer: str
    """`tiny`, which ships with us, or `internvl3`, which is looked for among the assets."""
    image_size: int = 512
    """Side of the images that generation reads and makes, in pixels."""
    queries: int = 256
    """Learned queries behind a prompt, whose states condition the generation."""
    train_timesteps: int = 1000
    flow_shift: float = 3.0
    """How far sampling moves its times towards noise; training does not."""
    question_limit: int = 1472
    prompt_limit: int = 128
    """Longest text, in tokens, when answering (question and answer) and when generating (the prompt)."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image's latents."""
        if isinstance(self.codec, DcAeConfig):
            channels, stride = self.codec.channels, self.codec.stride
        else:
            channels, stride = 3 * self.codec**2, self.codec
        return channels, self.image_size // stride, self.image_size // stride

    @property
    def latent_terms(self) -> int:
        """Numbers in an image's latents."""
        channels, height, width = self.latent_shape
        return channels * height * width


def tiny() -> OpenUniConfig:
    """The same classes with small numbers: trains on two CPU cores.

    Its vocabulary is the tiny tokenizer's 768 ids and two behind them, for the marks around an image.
    """
    return OpenUniConfig(
        variant="Tiny",
        language=Qwen2Config(
            width=96,
            layers=3,
            heads=4,
            key_value_heads=2,
            feed_forward=192,
            vocabulary=770,
            max_positions=2048,
            initial_deviation=0.1,  # about width^−½: from 0.02 a network this narrow hardly leaves its plateau
            tied=False,
        ),
        vision=VisionConfig(size=32, patch=2, width=64, layers=1, heads=2, feed_forward=128, seed=1),
        connector=ConnectorConfig(layers=1, heads=3, feed_forward=192),
        sana=SanaConfig(layers=3, heads=3, head_width=32, cross_heads=3, cross_head_width=32, caption_width=96),
        codec=4,
        tokenizer="tiny",
        image_size=32,
        queries=64,
        question_limit=128,
    )


def base_512() -> OpenUniConfig:
    """OpenUni-B-512: InternVL3-1B and SANA-0.6B."""
    return OpenUniConfig(
        variant="B-512",
        language=_internvl3(width=896, layers=24, heads=14, key_value_heads=2, feed_forward=4864),
        vision=VisionConfig(),
        connector=ConnectorConfig(layers=6, heads=14, feed_forward=3072),
        sana=SanaConfig(layers=28, heads=36, head_width=32, cross_heads=16, cross_head_width=72),
        codec=DcAeConfig(),
        tokenizer="internvl3",
    )


def large_512() -> OpenUniConfig:
    """OpenUni-L-512, called OpenUni-3.6B: InternVL3-2B and SANA-1.6B."""
    return OpenUniConfig(
        variant="L-512",
        language=_internvl3(width=1536, layers=28, heads=12, key_value_heads=2, feed_forward=8960),
        vision=VisionConfig(),
        connector=ConnectorConfig(layers=6, heads=24, feed_forward=8960),
        sana=SanaConfig(layers=20, heads=70, head_width=32, cross_heads=20, cross_head_width=112),
        codec=DcAeConfig(),
        tokenizer="internvl3",
    )


def _internvl3(width: int, layers: int, heads: int, key_value_heads: int, feed_forward: int) -> Qwen2Config:
    """InternVL3's language models: Qwen2.5 with further special tokens and a head of its own."""
    return Qwen2Config(width, layers, heads, key_value_heads, feed_forward, vocabulary=151674, tied=False)


VARIANTS = {"Tiny": tiny, "B-512": base_512, "L-512": large_512}
