"""Show-o's texts as token ids (docs/method/showo.md). A question's answer starts behind `ASSISTANT:`."""

from __future__ import annotations

from unimrg_api.sizes.showo import ShowOConfig
from unimrg_trainer.models.common.tokenizer import TEXT_END, TextTokenizer

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Precedes the image of a question in the variants with CLIP, as in LLaVA."""


class Template:
    """Token ids of every part of a row; `<|endoftext|>` opens and closes texts (sot, eot)."""

    def __init__(self, config: ShowOConfig, tokenizer: TextTokenizer) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self.text_end = tokenizer.special(TEXT_END)
        self.system = tuple(tokenizer.encode(SYSTEM)) if config.system_prompt else ()
        """Ids of the system sentence, none where there is no such sentence."""

    def question(self, text: str) -> list[int]:
        """Ids of a question in training, between the image and the answer."""
        return self._tokenizer.encode(f"USER: {text} ASSISTANT:")

    def asked(self, text: str) -> list[int]:
        """Ids of a question at inference: those of training with CLIP, else with sot and a line break in front."""
        if self._config.clip:
            return self.question(text)
        return [self.text_end, *self._tokenizer.encode(f"USER: \n{text} ASSISTANT:")]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are learnt."""
        return [*self._tokenizer.encode(f" {text.strip()}"), self.text_end]

    def follow_up(self, text: str) -> list[int]:
        """Ids between an answer and the answer to the question that follows it."""
        return self.question(text)

    def prompt(self, text: str) -> list[int]:
        """Ids between an input image and the image to generate."""
        return self._closed(f"USER: \n {text} ASSISTANT:", self._config.prompt_limit)

    def caption(self, text: str) -> list[int]:
        """Ids behind `t2i` of an image without an input image; for no text, what guidance compares with."""
        return self._closed(text, self._config.caption_limit)

    def _closed(self, text: str, limit: int) -> list[int]:
        ids = [self.text_end, *self._tokenizer.encode(text)]
        return [*ids[: limit - 1], self.text_end]
