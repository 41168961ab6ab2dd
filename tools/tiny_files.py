"""Makes the two small data files of the tiny models from generated scenes: their tokenizer and their codec's constants.

    python tools/tiny_files.py

Both are committed, in `models/common`; run it again only when scenes or prompts change,
because trained weights depend on them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from unimrg_api.sizes.harmon import config_of
from unimrg_trainer.maps.registry import MAPS, find_map
from unimrg_trainer.models.common.dct import MEASURED_FILE, BlockCosine, Measured
from unimrg_trainer.models.common.pixels import to_pixels
from unimrg_trainer.models.common.tokenizer import CHAT_SPECIALS, TINY_TOKENIZER
from unimrg_trainer.sample import Sample
from unimrg_trainer.scenes.scene import Scene, generate

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
        vocab_size=size - len(CHAT_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(CHAT_SPECIALS))
    return tokenizer


def texts(scenes: int) -> Iterator[str]:
    """Every prompt, and the texts of some scenes, framed by the line breaks that the template puts around them."""
    for name in MAPS:
        for prompt in find_map(name).wordings():
            yield f"user\n{prompt}"
            yield f"user\n\n{prompt}\nassistant\n"
    for index in range(scenes):
        scene = generate(SEED, index, 32)
        yield scene.caption
        for question in scene.questions:
            yield f"\n{question.question}"
            yield question.answer
            yield f"\n\n{question.question} {question.answer}"


def measure_coefficients(scenes: list[Scene], stride: int, size: int) -> Measured:
    """Spread and range of every DCT coefficient over pictures, depth maps and contours: all are learnt."""
    samples = [Sample("", s.image, {"depth": s.depth, "segmentation": s.segmentation}) for s in scenes]
    images = np.stack([find_map(name).target(sample, size) for sample in samples for name in MAPS])
    ones = (1.0,) * (3 * stride**2)
    coefficients = BlockCosine(stride, Measured(ones, ones)).encode(to_pixels(torch.from_numpy(images)))
    by_channel = coefficients.double().transpose(0, 1).flatten(1)
    scales = by_channel.std(dim=1)
    # the few sharpest contours beyond this lose nothing that is seen, and sampling is far steadier
    limits = torch.from_numpy(np.quantile(by_channel.abs().numpy(), 0.999, axis=1)) / scales
    return Measured(
        tuple(round(float(value), 5) for value in scales), tuple(math.ceil(10 * float(value)) / 10 for value in limits)
    )


def main() -> None:
    """Write both files beside this one."""
    torch.set_num_threads(1)
    config = config_of("Tiny")
    tokenizer = train_tokenizer(texts(SCENES_FOR_TEXT), config.language.vocabulary)
    path = TINY_TOKENIZER
    tokenizer.save(str(path))
    logger.info("%s: %d tokens", path.name, tokenizer.get_vocab_size())
    scenes = [generate(SEED, index, config.image_size) for index in range(SCENES_FOR_SCALES)]
    measured = measure_coefficients(scenes, config.codec_stride, config.image_size)
    MEASURED_FILE.write_text(json.dumps(asdict(measured), indent=1) + "\n")
    logger.info("%s: scales from %.4f to %.4f", MEASURED_FILE.name, min(measured.scales), max(measured.scales))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
