"""Every number of a Show-o, and the sizes that a job can name (docs/method/showo.md).

The small variant for laptops and tests differs from the published ones in these values only; some of them name its
image tokenizer, its vision tower and its text tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SPECIALS = ("[PAD]", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")
"""Special tokens in the order of their ids, right behind the text vocabulary."""


@dataclass(frozen=True)
class PhiConfig:
    """The numbers of a Phi: attention and MLP side by side behind one norm, a part of each head rotated."""

    width: int = 2048
    layers: int = 24
    heads: int = 32
    feed_forward: int = 8192
    rotary_share: float = 0.5
    rope_theta: float = 1e4
    norm_epsilon: float = 1e-5
    max_positions: int = 2048
    initial_deviation: float = 0.02
    """Standard deviation of the first weights, where none are loaded."""


@dataclass(frozen=True)
class ClipConfig:
    """The vision tower of CLIP, whose last but one layer is read without the class token."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    image_size: int = 336
    patch: int = 14
    pretrained: bool = True
    """False: never loaded, but drawn from `seed`, for sizes for which no pretrained tower exists."""
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch) ** 2


@dataclass(frozen=True)
class MagvitConfig:
    """The published image tokenizer; its code has one bit for each latent channel."""

    width: int = 128
    encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    bits: int = 13
    norm_groups: int = 32

    @property
    def stride(self) -> int:
        """Pixels along one side of the square that a code stands for."""
        return int(2 ** (len(self.encoder_multipliers) - 1))


@dataclass(frozen=True)
class BlocksConfig:
    """The tokenizer without weights: a code is the mean colour of a block."""

    stride: int = 4
    channel_bits: int = 3

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 3 * self.channel_bits


@dataclass(frozen=True, kw_only=True)
class ShowOConfig:
    """One Show-o at one image size."""

    variant: str
    language: PhiConfig = field(default_factory=PhiConfig)
    clip: ClipConfig | None
    """The tower that images are understood through; None: through their codes."""
    codes: MagvitConfig | BlocksConfig = field(default_factory=MagvitConfig)
    image_size: int
    """Side of generated images."""
    source_size: int
    """Side of the image that a generation reads: the tower's, or one whose codes are read."""
    source_detail: int | None = None
    """The source is first reduced to this side, so that codes cannot simply be copied; None: it is not."""
    text_vocabulary: int = 50295
    """Ids of the text tokenizer; special tokens, codes and the mask token follow."""
    text_end: int = 50256
    """Id of `<|endoftext|>`, which opens and closes texts."""
    tokenizer: str = "phi-1.5"
    """Name of the text tokenizer: `tiny`, which ships with us, or `phi-1.5`, which is looked for among the assets."""
    system_prompt: bool = True
    """Whether the system sentence precedes the image of a question; only with `clip`."""
    ends_in_block: bool = True
    """Whether `soi` and `eoi` of a generated image see it and are seen by it, as when Show-o was trained; False: only
    its codes see each other, as in RecA's rows with `clip`."""
    question_limit: int = 576
    """Longest question with its answer, in tokens."""
    prompt_limit: int = 125
    """Longest prompt between an input image and the generated one; with `clip` the latter's place is behind these."""
    caption_limit: int = 128
    """Longest prompt of an image without an input image; its place is one behind these."""
    row_limit: int = 381
    """With codes as input: the generated image's place is 3 + codes behind these."""

    @property
    def side(self) -> int:
        """Codes along one side of a generated image."""
        return self.image_size // self.codes.stride

    @property
    def tokens(self) -> int:
        """Codes of a generated image, N."""
        return self.side**2

    @property
    def source_tokens(self) -> int:
        """Places of the image that a generation reads, n."""
        return self.clip.tokens if self.clip else (self.source_size // self.codes.stride) ** 2

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return int(2**self.codes.bits)

    @property
    def first_code(self) -> int:
        """Token id of code 0."""
        return self.text_vocabulary + len(SPECIALS)

    @property
    def mask(self) -> int:
        """Id of the mask token, the last one."""
        return self.first_code + self.codebook

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.mask + 1

    def special(self, name: str) -> int:
        """Id of one of SPECIALS."""
        return self.text_vocabulary + SPECIALS.index(name)


def tiny() -> ShowOConfig:
    """The same classes with small numbers: trains on two CPU cores. Its tower is random, and never trained."""
    return ShowOConfig(
        variant="Tiny",
        language=PhiConfig(width=96, layers=3, heads=4, feed_forward=192, initial_deviation=0.1),
        clip=ClipConfig(width=48, layers=2, heads=3, feed_forward=96, image_size=32, patch=4, pretrained=False),
        codes=BlocksConfig(),
        image_size=32,
        source_size=32,
        text_vocabulary=768,
        text_end=765,
        tokenizer="tiny",
        question_limit=128,
        prompt_limit=48,
        caption_limit=48,
    )


def _with_clip(size: int, question_limit: int) -> ShowOConfig:
    return ShowOConfig(
        variant=f"CLIP-{size}", clip=ClipConfig(), image_size=size, source_size=336, question_limit=question_limit
    )


def clip_512() -> ShowOConfig:
    """`show-o-w-clip-vit-512x512`: a question with its answer ends at place 1603."""
    return _with_clip(512, question_limit=996)


def clip_256() -> ShowOConfig:
    """`show-o-w-clip-vit`: 256 pixels."""
    return _with_clip(256, question_limit=228)


def vq_512() -> ShowOConfig:
    """`show-o-512x512`: generations read the 256 codes of a smaller image."""
    return ShowOConfig(variant="VQ-512", clip=None, image_size=512, source_size=256, system_prompt=False)


def vq_256() -> ShowOConfig:
    """`show-o`: generations read the codes of an image without its detail."""
    return ShowOConfig(
        variant="VQ-256", clip=None, image_size=256, source_size=256, source_detail=32, system_prompt=False
    )


VARIANTS = {"Tiny": tiny, "VQ-256": vq_256, "VQ-512": vq_512, "CLIP-256": clip_256, "CLIP-512": clip_512}


def config_of(variant: str) -> ShowOConfig:
    """Return the configuration of one of VARIANTS."""
    return VARIANTS[variant]()
