"""Greedy decoding of a batch of answers, whatever model gives the scores."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor


def greedy(
    scores: Tensor,
    advance: Callable[[Tensor, int], Tensor],
    ends: Collection[int],
    max_new_tokens: int,
    on_token: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Return each row's likeliest token ids, up to the first of `ends` (left out) or `max_new_tokens`.

    `scores` [B, V] are those of the first token; `advance(tokens [B, 1], step)` reads the tokens chosen in that step,
    counted from 0, and returns the scores [B, V] of the next. `on_token` is called before it.
    """
    answers: list[list[int]] = [[] for _ in range(len(scores))]
    running = set(range(len(scores)))
    for step in range(max_new_tokens):
        chosen = scores.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in running:
                if token in ends:
                    running.discard(row)
                else:
                    answers[row].append(token)
        if not running or step == max_new_tokens - 1:
            break
        on_token()
        scores = advance(chosen[:, None], step)
    return answers
