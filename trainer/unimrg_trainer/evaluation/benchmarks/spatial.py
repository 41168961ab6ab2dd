"""The Spatial benchmark: exact answers to questions about held-out images, against the best constant answer.

A model that has learnt how frequent the answers are, but not to look, scores like the *majority answer*: for each kind
of question the answer that is right most often **in the very questions scored** (a tie goes to the first in the
alphabet). It is chosen with the truth in hand, so no constant answer could do better and a gain over it is not
flattered. Answers that are not among the kind's answers count as unparsed, and as wrong (docs/method/evaluation.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unimrg_trainer.evaluation.benchmarks.base import BenchmarkResult, HeldOut, Item, LazyItems, Result, Table
from unimrg_trainer.evaluation.benchmarks.extraction import extract, normalise
from unimrg_trainer.evaluation.intervals import (
    Interval,
    bootstrap_ratio_interval,
    cluster_sums,
    interval_text,
    mcnemar,
    wilson,
)
from unimrg_trainer.models.requests import AnswerRequest


class Spatial:
    """Asks the first `questions` held-out questions, greedily; settings as in `spec.stages.evaluate.benchmarks`."""

    name = "spatial"
    max_new_tokens = 8

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._questions = int(settings["questions"])

    def items(self, held_out: HeldOut) -> LazyItems:
        """One item for each question; questions about one image share its key."""

        def item(number: int) -> Item:
            sample = held_out.question_sample(number, maps=())
            request = AnswerRequest(sample.question or "", sample.image)
            return Item(sample.key, request, sample.answer, {"kind": sample.attributes["kind"]})

        return LazyItems(min(self._questions, len(held_out.questions)), item)

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Percentages: `acc` over all questions, `KIND/acc` for each kind of question, and a row of the table each."""
        rows = [Answered(item.key, item.attributes["kind"], item.truth or "", str(answer)) for item, answer in results]
        scores = score(rows, seed=seed)
        metrics = _metrics(scores.overall)
        for kind, one in scores.kinds.items():
            metrics |= {f"{kind}/{name}": value for name, value in _metrics(one).items()}
        table = Table(
            "spatial questions, % [95 %]; majority: the best constant answer",
            ["kind", "n", "right", "majority", "gain", "unparsed"],
            [_cells(kind, one) for kind, one in [*scores.kinds.items(), ("all", scores.overall)]],
        )
        return BenchmarkResult(metrics, ("acc", "majority_acc", "n"), table)


@dataclass(frozen=True)
class Answered:
    """One question, its true answer, and what the model wrote."""

    image: str
    """Key of the image: questions about one image are not independent."""
    kind: str
    truth: str
    answer: str


@dataclass(frozen=True)
class Score:
    """How well one kind of question, or all of them, was answered. Shares lie between 0 and 1."""

    n: int
    correct: int
    accuracy: float
    interval: Interval
    """Wilson, 95 %, as if questions were independent."""
    unparsed: int
    """Answers outside the vocabulary; they are wrong."""
    majority_correct: int
    """Right answers of the best constant answer of each kind."""
    majority_accuracy: float
    difference: float
    """accuracy − majority_accuracy."""
    difference_interval: Interval | None
    """95 %, paired bootstrap over images; None with a single image."""
    p_value: float
    """Exact McNemar test against the majority answer; takes questions as independent."""


@dataclass(frozen=True)
class SpatialScores:
    """All kinds of questions together and one by one."""

    overall: Score
    kinds: dict[str, Score]


def score(rows: Sequence[Answered], *, seed: int) -> SpatialScores:
    """Score `rows`; `seed` is the bootstrap's. A kind has the answers that are true of one of its rows.

    The result does not depend on the order of rows. Raises ValueError for no rows, or for an empty truth.
    """
    if not rows:
        raise ValueError("there are no answers to score")
    by_kind = {
        kind: _classify([row for row in rows if row.kind == kind]) for kind in sorted({row.kind for row in rows})
    }
    kinds = {kind: _score(classified, seed) for kind, classified in by_kind.items()}
    overall = _score([row for classified in by_kind.values() for row in classified], seed)
    return SpatialScores(overall, kinds)


@dataclass(frozen=True)
class _Classified:
    """A row, and which answers were right."""

    image: str
    parsed: bool
    right: bool
    majority_right: bool


def _classify(rows: Sequence[Answered]) -> list[_Classified]:
    truths = [normalise(row.truth) for row in rows]
    for row, truth in zip(rows, truths, strict=True):
        if not truth:
            raise ValueError(f"a question about {row.image} has the empty answer {row.truth!r}")
    counts = Counter(truths)
    majority = min(counts, key=lambda answer: (-counts[answer], answer))
    classified = []
    for row, truth in zip(rows, truths, strict=True):
        answer = extract(row.answer, counts.keys())
        classified.append(_Classified(row.image, answer is not None, answer == truth, majority == truth))
    return classified


def _score(rows: Sequence[_Classified], seed: int) -> Score:
    n = len(rows)
    correct = sum(row.right for row in rows)
    majority_correct = sum(row.majority_right for row in rows)
    differences = [float(row.right) - float(row.majority_right) for row in rows]
    sums, counts = cluster_sums(differences, [row.image for row in rows])
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / n,
        interval=wilson(correct, n),
        unparsed=sum(not row.parsed for row in rows),
        majority_correct=majority_correct,
        majority_accuracy=majority_correct / n,
        difference=(correct - majority_correct) / n,
        difference_interval=bootstrap_ratio_interval(sums, counts, seed=seed),
        p_value=mcnemar(differences.count(1.0), differences.count(-1.0)),
    )


def _metrics(score: Score) -> dict[str, float]:
    gain = score.difference_interval
    values = {
        "n": score.n,
        "acc": 100 * score.accuracy,
        "acc_low": 100 * score.interval.low,
        "acc_high": 100 * score.interval.high,
        "majority_acc": 100 * score.majority_accuracy,
        "gain": 100 * score.difference,
        "gain_low": 100 * gain.low if gain else None,
        "gain_high": 100 * gain.high if gain else None,
        "gain_p": score.p_value,
        "unparsed_rate": 100 * score.unparsed / score.n,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _cells(kind: str, score: Score) -> list[str]:
    return [
        kind,
        str(score.n),
        f"{100 * score.accuracy:.1f} {interval_text(score.interval, '.1f', 100)}",
        f"{100 * score.majority_accuracy:.1f}",
        f"{100 * score.difference:+.1f} {interval_text(score.difference_interval, '+.1f', 100)}",
        str(score.unparsed),
    ]
