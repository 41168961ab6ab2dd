"""Prompts of VLMEvalKit's tables of questions, worded for a family's style of being asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from unimrg_trainer.evaluation.vlmevalkit.tables import LETTERS, Row
from unimrg_trainer.models.requests import PromptStyle


def options(row: Row) -> dict[str, str]:
    """Return a row's options, letter → text, those that are missing left out."""
    return {letter: row[letter] for letter in LETTERS if letter in row}


def choice_prompt(row: Row, style: PromptStyle) -> str:
    """Return hint, question and options, each on a line, and the style's ending; without options the question alone."""
    hint, question, head = ("Hint: ", "Question: ", ["Options:"]) if style.labels else ("", "", [])
    shown = options(row)
    lines = [f"{hint}{row['hint']}"] if "hint" in row else []
    lines.append(f"{question}{row['question']}")
    if shown:
        lines += [*head, *(f"{letter}. {text}" for letter, text in shown.items())]
    return "\n".join([*lines, style.choice_ending if shown else ""])


def yes_no_prompt(row: Row, style: PromptStyle, benchmark: str) -> str:
    """Return the question, and what the style has for yes/no questions of this benchmark."""
    return row["question"] + style.yes_no_endings.get(benchmark, "")


def prompts_digest(prompts: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of all (index, prompt), whatever their order."""
    digest = hashlib.sha256()
    for index, prompt in sorted(prompts):
        digest.update(f"{index}\0{prompt}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
