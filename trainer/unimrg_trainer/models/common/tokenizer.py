"""Text ↔ token ids: one wrapper for published vocabularies and for the small one that ships with this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"
CHAT_SPECIALS = (TEXT_END, TURN_START, TURN_END)
"""In the order of their ids, behind the vocabulary proper, as in Qwen2.5."""

QWEN_IDS = {TEXT_END: 151643, TURN_START: 151644, TURN_END: 151645}
"""Numbers of these in Qwen2.5's tokenizer, and in those that are made from it."""

TINY_TOKENIZER = Path(__file__).with_name("tiny_tokenizer.json")
"""768 tokens, trained on the texts of generated scenes; its special tokens are CHAT_SPECIALS."""


class TextTokenizer:
    """Byte-level BPE. Special tokens are written by id only: text that spells one stays text."""

    def __init__(
        self, path: Path, specials: Sequence[str], limit: int, remedy: str, ids: Mapping[str, int] = {}
    ) -> None:
        """Open the file; it must know every special token, those of `ids` under these numbers, and have at most `limit`
        tokens, for no further one has an embedding.

        Raises UserError (DATA_CORRUPT) with `remedy` where it does not fit.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise UserError(
                f"{path} is not a tokenizer: {error}", remedy=remedy, exit_code=ExitCode.DATA_CORRUPT
            ) from error
        self._tokenizer.encode_special_tokens = True
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        missing = [name for name in (*specials, *ids) if name not in known]
        others = [name for name, number in ids.items() if known.get(name) != number]
        if missing or others or self.size > limit:
            problem = f"it has {self.size} tokens, the model {limit}"
            if missing:
                problem = f"it has no {missing[0]}"
            elif others:
                problem = f"{others[0]} is {known[others[0]]} in it, not {ids[others[0]]}"
            raise UserError(
                f"{path} is not the tokenizer of this model: {problem}", remedy=remedy, exit_code=ExitCode.DATA_CORRUPT
            )
        self._specials: dict[str, int] = {name: known[name] for name in (*specials, *ids)}

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def special(self, name: str) -> int:
        """Id of one of the special tokens that were asked for."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones are left out, broken UTF-8 becomes U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


class ChatTokenizer(TextTokenizer):
    """A tokenizer of the Qwen2 family, with the special tokens of its conversation format."""

    def __init__(self, path: Path, limit: int, remedy: str, ids: Mapping[str, int] = {}) -> None:
        """`ids`: numbers of special tokens, further ones included, by which a published tokenizer is recognised."""
        super().__init__(path, CHAT_SPECIALS, limit, remedy, ids)
        self.text_end, self.turn_start, self.turn_end = (self.special(name) for name in CHAT_SPECIALS)
