"""Replies to a table's questions: what the rules read out of each, and what is worth knowing about all of them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.evaluation.vlmevalkit.choices import extract_choice
from unimrg_trainer.evaluation.vlmevalkit.prompts import options
from unimrg_trainer.evaluation.vlmevalkit.tables import Row, as_read_back
from unimrg_trainer.evaluation.vlmevalkit.yes_no import extract_yes_no

Kind = Literal["MultipleChoice", "YesNo"]
YES_NO = {"Yes": "Yes", "No": "No"}
DOUBTFUL = 0.05
"""A larger share of replies without an answer than this is warned of."""
ONE_SIDED = 0.8
"""A larger share of one and the same answer is warned of, where it is right in less than half of the questions."""


@dataclass(frozen=True, eq=False)
class Reply:
    """One question with the model's reply."""

    row: Row
    prediction: str
    """As the model wrote it."""
    extracted: str
    """A letter, `Yes` or `No`; empty: the reply does not say."""
    choices: Mapping[str, str]
    """What may be answered."""

    @property
    def index(self) -> str:
        """The row's index."""
        return self.row["index"]

    @property
    def right(self) -> bool:
        """True if the answer that was read out of the reply is the row's."""
        return self.extracted != "" and self.extracted == self.row["answer"]

    @property
    def parsed(self) -> bool:
        """True if one of the possible answers was read out of the reply; a refusal is none."""
        return self.extracted in self.choices


def read_replies(rows: Sequence[Row], predictions: Sequence[str], kind: Kind, rule_set: str) -> list[Reply]:
    """Return the replies in the order of their indices, so that no score depends on the order of rows.

    Raises UserError (65) as `check_rows`.
    """
    check_rows(rows, kind)
    replies = []
    for row, prediction in zip(rows, predictions, strict=True):
        text = as_read_back(prediction)
        choices = options(row) if kind == "MultipleChoice" else YES_NO
        extracted = extract_choice(text, choices, rule_set) if kind == "MultipleChoice" else extract_yes_no(text)
        replies.append(Reply(row, prediction, extracted, choices))
    return sorted(replies, key=lambda reply: by_index(reply.row))


def check_rows(rows: Sequence[Row], kind: Kind) -> None:
    """Raise UserError (65) for questions that cannot be scored: without options, or with an answer that is none."""
    if kind == "MultipleChoice":
        refuse_rows(
            "have no options, so no rule says which replies are right", [row for row in rows if not options(row)]
        )
        refuse_rows(
            "have an answer that is none of their options", [row for row in rows if row["answer"] not in options(row)]
        )
    else:
        refuse_rows("have an answer other than Yes or No", [row for row in rows if row["answer"] not in YES_NO])


def by_index(row: Row) -> tuple[int, str]:
    """Return a key that sorts rows by index: numbers by value, before texts."""
    index = row["index"]
    return (int(index), "") if index.isdecimal() else (1 << 62, index)


def reply_metrics(replies: Sequence[Reply]) -> dict[str, float]:
    """Return n, the shares (percent) of replies without an answer and of empty ones, mean length in characters, and for
    questions of yes or no the share of Yes."""
    n = len(replies)
    metrics = {
        "n": float(n),
        "unparsed_rate": 100 * sum(not reply.parsed for reply in replies) / n,
        "empty_rate": 100 * sum(not reply.prediction.strip() for reply in replies) / n,
        "mean_length": sum(len(reply.prediction) for reply in replies) / n,
    }
    if all(reply.choices is YES_NO for reply in replies):
        metrics["yes_rate"] = 100 * sum(reply.extracted == "Yes" for reply in replies) / n
    return metrics


def reply_warnings(replies: Sequence[Reply]) -> list[str]:
    """Say what in the replies themselves makes a score doubtful."""
    n = len(replies)
    warnings = []
    unparsed = sum(not reply.parsed for reply in replies)
    if unparsed > DOUBTFUL * n:
        warnings.append(f"{unparsed} of {n} replies name no answer and count as wrong.")
    empty = sum(not reply.prediction.strip() for reply in replies)
    if empty > DOUBTFUL * n:
        warnings.append(f"{empty} of {n} replies are empty.")
    for answer, (given, right) in answer_counts(replies).items():
        if given > ONE_SIDED * n and right < n / 2:
            warnings.append(f"The answer is {answer} in {given} of {n} replies, and right in {right} of the questions.")
    return warnings


def answer_counts(replies: Sequence[Reply]) -> dict[str, tuple[int, int]]:
    """Return answer → (how often it was given, how often it is right), by answer; replies without one under ``."""
    given = Counter(reply.extracted for reply in replies)
    right = Counter(reply.row["answer"] for reply in replies)
    return {answer: (given[answer], right[answer]) for answer in sorted({*given, *right})}


def answer_counts_file(replies: Sequence[Reply]) -> bytes:
    """Return `answer_counts` as TSV: which answers the model favours."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(["answer", "given", "right"])
    writer.writerows([answer or "none", *counts] for answer, counts in answer_counts(replies).items())
    return file.getvalue().encode()


def refuse_rows(what: str, rows: Iterable[Row]) -> None:
    """Raise UserError (65) that names these rows; nothing where there are none."""
    found = [row["index"] for row in rows]
    if found:
        first = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise UserError(
            f"{len(found)} rows {what}: {first}",
            remedy="take the rows out of the table and name it in an entry `tsv`, or correct them",
            exit_code=ExitCode.DATA_CORRUPT,
        )
