"""Makes the two small data files of this room from generated scenes: the tokenizer and the scales of the DCT codec.

    python -m unimrg_trainer.models.harmon.measurements

Both are committed; run it again only when scenes or prompts change, because trained weights depend on them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from unimrg_trainer.models.harmon.codec import to_pixels
from unimrg_trainer.models.harmon.config import config_of
from unimrg_trainer.models.harmon.dct import SCALES_FILE, BlockCosine
from unimrg_trainer.models.harmon.tokenizer import SPECIALS
from unimrg_trainer.scenes.scene import Scene, generate
from unimrg_trainer.targets.canonical import depth_target, segmentation_target, squash

logger = logging.getLogger(__name__)

SEED = 20260
SCENES_FOR_TEXT = 2000
SCENES_FOR_SCALES = 500

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 splits text before merging. It keeps runs of line breaks together: "\\n\\n" becomes one token."""


def train_tokenizer(texts: Iterator[str], size: int) -> Tokenizer:
    """Train a byte-level BPE of at most `size` ids, special tokens included and last."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def texts(scenes: int) -> Iterator[str]:
    """Every prompt, and the words of some scenes, framed by the line breaks that the template puts around them."""
    for file in (resources.files("unimrg_trainer.objectives") / "prompts").iterdir():
        if file.name.endswith(".txt"):
            for prompt in file.read_text().splitlines():
                yield f"user\n{prompt}"
                yield f"user\n\n{prompt}\nassistant\n"
    for index in range(scenes):
        scene = generate(SEED, index, 32)
        yield scene.caption
        for question in scene.questions:
            yield f"\n{question.question}"
            yield question.answer
            yield f"\n\n{question.question} {question.answer}"


def measure_scales(scenes: list[Scene], stride: int, size: int) -> list[float]:
    """Standard deviation of every DCT coefficient over pictures, depth maps and contours: all are learnt."""
    images = np.stack(
        [
            image
            for scene in scenes
            for image in (
                squash(scene.image, size),
                depth_target(scene.depth, size),
                segmentation_target(scene.segmentation, size),
            )
        ]
    )
    plain = BlockCosine(stride, [1.0] * (3 * stride**2))
    coefficients = plain.encode(to_pixels(images))
    deviation = coefficients.double().transpose(0, 1).flatten(1).std(dim=1)
    return [round(float(value), 5) for value in deviation]


def main() -> None:
    """Write both files beside this one."""
    torch.set_num_threads(1)
    config = config_of("Tiny")
    tokenizer = train_tokenizer(texts(SCENES_FOR_TEXT), config.language.vocabulary)
    path = Path(__file__).with_name(config.tokenizer)
    tokenizer.save(str(path))
    logger.info("%s: %d tokens", path.name, tokenizer.get_vocab_size())
    scenes = [generate(SEED, index, config.image_size) for index in range(SCENES_FOR_SCALES)]
    scales = measure_scales(scenes, config.codec_stride, config.image_size)
    note = "standard deviations of the DCT coefficients of scenes, depth maps and contours (measurements.py)"
    SCALES_FILE.write_text(json.dumps({"what": note, "scales": scales}) + "\n")
    logger.info("%s: from %.4f to %.4f", SCALES_FILE.name, min(scales), max(scales))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
