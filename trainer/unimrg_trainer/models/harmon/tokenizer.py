"""Text ↔ token ids: one wrapper for Qwen2.5's vocabulary and for the small one that ships with this room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.harmon.config import HarmonConfig

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"
SPECIALS = (TEXT_END, TURN_START, TURN_END)
"""In the order of their ids, behind the vocabulary proper, as in Qwen2.5."""

QWEN_FILE = "qwen2.5-tokenizer.json"


class TextTokenizer:
    """Byte-level BPE. Special tokens are written by id only: text that spells one stays text."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True
        ids = [self._tokenizer.token_to_id(name) for name in SPECIALS]
        missing = [name for name, number in zip(SPECIALS, ids, strict=True) if number is None]
        if missing:
            raise UserError(
                f"{path} is not a tokenizer for Harmon: it has no {missing[0]}",
                remedy="use Qwen2.5-Instruct's tokenizer.json",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        self.text_end, self.turn_start, self.turn_end = (int(number) for number in ids if number is not None)

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones are left out, broken UTF-8 becomes U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def tokenizer_file(config: HarmonConfig, assets: Path) -> Path:
    """Return the file of the tokenizer that `config` names. Raises UserError where it is missing."""
    if config.tokenizer != "qwen2.5":
        return Path(__file__).with_name(config.tokenizer)
    path = assets / QWEN_FILE
    if not path.is_file():
        raise UserError(
            f"Harmon {config.variant} needs Qwen2.5's tokenizer, and {path} is missing",
            remedy=f"put the tokenizer.json of Qwen2.5-Instruct there as {QWEN_FILE}",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return path


def open_tokenizer(config: HarmonConfig, assets: Path) -> TextTokenizer:
    """Open the tokenizer that `config` names. Raises UserError where its file is missing or does not fit."""
    path = tokenizer_file(config, assets)
    tokenizer = TextTokenizer(path)
    if tokenizer.size > config.language.vocabulary:
        raise UserError(
            f"{path} has {tokenizer.size} tokens, more than the model's {config.language.vocabulary} embeddings",
            remedy="use the tokenizer that the model was trained with",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    return tokenizer
