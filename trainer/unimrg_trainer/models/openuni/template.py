"""OpenUni's conversation format as token ids (docs/method/openuni.md). There is no system prompt.

answering:   <|im_start|>user⏎<img> [image] </img>⏎question<|im_end|>⏎<|im_start|>assistant⏎answer<|im_end|>
             ⏎<|im_start|>user⏎question<|im_end|>⏎<|im_start|>assistant⏎answer<|im_end|>    for further turns
generating:  <|im_start|>user⏎<img> [image] </img>⏎prompt<|im_end|>⏎<|im_start|>assistant⏎<img> [queries]
             <|im_start|>user⏎Generate an image: prompt<|im_end|>⏎<|im_start|>assistant⏎<img> [queries]
"""

from __future__ import annotations

from unimrg_api.sizes.openuni import OpenUniConfig
from unimrg_trainer.models.common.tokenizer import QWEN_IDS, ChatTokenizer

IMAGE_START, IMAGE_END = "<img>", "</img>"
SPECIAL_IDS = {**QWEN_IDS, IMAGE_START: 151665, IMAGE_END: 151666}
"""Numbers of the special tokens in InternVL3's tokenizer."""
FROM_TEXT = "Generate an image: "
UNCONDITIONAL = "Generate an image."
"""What guidance compares with: a prompt that names nothing, without an image."""


class Template:
    """Token ids of every part of a conversation; texts between special tokens are tokenised as a whole."""

    def __init__(self, config: OpenUniConfig, tokenizer: ChatTokenizer, image_marks: tuple[int, int]) -> None:
        """`image_marks` are the ids of `<img>` and `</img>`."""
        self._config = config
        self._tokenizer = tokenizer
        self.image_start, self.image_end = image_marks

    def opening(self) -> list[int]:
        """Ids before the image."""
        return [self._tokenizer.turn_start, *self._tokenizer.encode("user\n"), self.image_start]

    def question(self, text: str, *, with_image: bool) -> list[int]:
        """Ids between the image, or the start of the row, and the answer."""
        return self._turn(text, with_image=with_image)

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, all of which are learnt."""
        return [*self._tokenizer.encode(text), self._tokenizer.turn_end]

    def follow_up(self, text: str) -> list[int]:
        """Ids between an answer and the answer to the question that follows it."""
        return [*self._tokenizer.encode("\n"), *self._turn(text, with_image=False)]

    def prompt(self, text: str, *, with_image: bool) -> list[int]:
        """Ids between the image, or the start of the row, and the queries."""
        request = text.strip() if with_image else FROM_TEXT + text.strip()
        ids = self._turn(request, with_image=with_image, limit=self._config.prompt_limit)
        return [*ids, self.image_start]

    def unconditional(self) -> list[int]:
        """Ids before the queries, where nothing is named and no image shown."""
        return [*self._turn(UNCONDITIONAL, with_image=False), self.image_start]

    def _turn(self, text: str, *, with_image: bool, limit: int | None = None) -> list[int]:
        tokenizer = self._tokenizer
        head = [self.image_end] if with_image else [tokenizer.turn_start]
        body = tokenizer.encode(f"\n{text}" if with_image else f"user\n{text}")[:limit]
        tail = [*tokenizer.encode("\n"), tokenizer.turn_start, *tokenizer.encode("assistant\n")]
        return [*head, *body, tokenizer.turn_end, *tail]
