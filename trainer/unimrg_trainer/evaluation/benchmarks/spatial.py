"""The Spatial benchmark: exact answers to questions about held-out images, against the best constant answer.

A model that has learnt how frequent the answers are, but not to look, scores like the *majority answer*: for each kind
of question the answer that is right most often **in the very questions scored** (a tie goes to the first in the
alphabet). It is chosen with the truth in hand, so no constant answer could do better and a gain over it is not
flattered. Answers that are not among the kind's answers count as unparsed, and as wrong (docs/method/evaluation.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unimrg_trainer.evaluation.benchmarks.base import (
    BenchmarkPlace,
    BenchmarkResult,
    Item,
    Items,
    ItemScore,
    LazyItems,
    Result,
    Subject,
    Table,
)
from unimrg_trainer.evaluation.intervals import (
    Interval,
    bootstrap_ratio_interval,
    cluster_sums,
    interval_text,
    mcnemar,
    wilson,
)
from unimrg_trainer.models.requests import AnswerRequest
from unimrg_trainer.sample import Wanted


class Spatial:
    """Asks the first `questions` held-out questions, greedily; settings as in `spec.stages.evaluate.benchmarks`."""

    name = "spatial"
    max_new_tokens = 8

    def __init__(self, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._questions = int(settings["questions"])

    def items(self, subject: Subject) -> Items:
        """One item for each question; questions about one image share its key. None where the job has no data."""
        held_out = subject.held_out
        if held_out is None:
            return []

        def item(number: int) -> Item:
            sample = held_out.question_sample(number, Wanted(maps=()))
            request = AnswerRequest(sample.question or "", sample.image)
            return Item(sample.key, request, sample.answer, {"kind": sample.attributes.get("kind", "other")})

        return LazyItems(min(self._questions, len(held_out.questions)), item)

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Percentages: `acc` over all questions, `KIND/acc` for each kind of question, and a row of the table each."""
        asked = list(results)
        rows = [Answered(item.key, item.attributes["kind"], item.truth or "", str(answer)) for item, answer in asked]
        scores = score(rows, seed=seed)
        metrics: dict[str, float] = {}
        for kind, one in scores.items():
            metrics |= {name if kind == ALL else f"{kind}/{name}": value for name, value in _metrics(one).items()}
        table = Table(
            "spatial questions, % [95 %]; majority: the best constant answer",
            ["kind", "n", "right", "majority", "gain", "unparsed"],
            [_cells(kind, one) for kind, one in scores.items()],
        )
        items = [
            ItemScore(
                f"{row.image}/{index}",
                row.image,
                row.kind,
                {"acc": float(normalise(row.answer) == normalise(row.truth))},
                question=item.request.prompt[:500],
                truth=row.truth[:500],
                prediction=row.answer[:500],
                extracted=normalise(row.answer)[:500],
            )
            for index, ((item, _), row) in enumerate(zip(asked, rows, strict=True))
        ]
        return BenchmarkResult(metrics, ("acc", "majority_acc", "n"), table, tuple(items))


ALL = "all"
"""All kinds of questions together."""


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
    unparsed: int
    """Answers outside the vocabulary; they are wrong."""
    majority_correct: int
    """Right answers of the best constant answer of each kind."""
    interval: Interval
    """Wilson, 95 %, of the share of correct answers, as if questions were independent."""
    difference_interval: Interval | None
    """Of the gain over the majority: 95 %, paired bootstrap over images; None with a single image."""
    p_value: float
    """Exact McNemar test against the majority answer; takes questions as independent."""

    @property
    def difference(self) -> float:
        """Share of correct answers less the majority's."""
        return (self.correct - self.majority_correct) / self.n


def normalise(text: str) -> str:
    """Return the first line that has words: NFKC, case folded, single-spaced, without punctuation at either end."""
    for line in text.splitlines():
        folded = " ".join(unicodedata.normalize("NFKC", line).casefold().split())
        stripped = re.sub(r"^[\W_]+|[\W_]+$", "", folded)
        if stripped:
            return stripped
    return ""


def score(rows: Sequence[Answered], *, seed: int) -> dict[str, Score]:
    """Score each kind of question and `ALL`; `seed` is the bootstrap's. A kind has the answers true of one of its rows.

    The result does not depend on the order of rows. Raises ValueError for a question whose true answer is empty.
    """
    kinds = {kind: _classify([row for row in rows if row.kind == kind]) for kind in sorted({row.kind for row in rows})}
    together = [row for classified in kinds.values() for row in classified]
    return {kind: _score(classified, seed) for kind, classified in [*kinds.items(), (ALL, together)]}


@dataclass(frozen=True)
class _Classified:
    """A row, and which answers were right."""

    image: str
    parsed: bool
    right: bool
    majority_right: bool


def _classify(rows: Sequence[Answered]) -> list[_Classified]:
    truths = [normalise(row.truth) for row in rows]
    if "" in truths:
        raise ValueError(f"a question about {rows[truths.index('')].image} has an empty answer")
    counts = Counter(truths)
    majority = min(counts, key=lambda answer: (-counts[answer], answer))
    answers = [normalise(row.answer) for row in rows]
    return [
        _Classified(row.image, answer in counts, answer == truth, majority == truth)
        for row, truth, answer in zip(rows, truths, answers, strict=True)
    ]


def _score(rows: Sequence[_Classified], seed: int) -> Score:
    n = len(rows)
    correct = sum(row.right for row in rows)
    differences = [float(row.right) - float(row.majority_right) for row in rows]
    sums, counts = cluster_sums(differences, [row.image for row in rows])
    return Score(
        n=n,
        correct=correct,
        unparsed=sum(not row.parsed for row in rows),
        majority_correct=sum(row.majority_right for row in rows),
        interval=wilson(correct, n),
        difference_interval=bootstrap_ratio_interval(sums, counts, seed=seed),
        p_value=mcnemar(differences.count(1.0), differences.count(-1.0)),
    )


def _metrics(score: Score) -> dict[str, float]:
    shares = {
        "acc": score.correct / score.n,
        "acc_low": score.interval.low,
        "acc_high": score.interval.high,
        "majority_acc": score.majority_correct / score.n,
        "gain": score.difference,
        "unparsed_rate": score.unparsed / score.n,
    }
    if score.difference_interval:
        shares |= {"gain_low": score.difference_interval.low, "gain_high": score.difference_interval.high}
    percentages = {name: 100 * share for name, share in shares.items()}
    return {"n": float(score.n), "gain_p": score.p_value, **percentages}


def _cells(kind: str, score: Score) -> list[str]:
    return [
        kind,
        str(score.n),
        f"{100 * score.correct / score.n:.1f} {interval_text(score.interval, '.1f', 100)}",
        f"{100 * score.majority_correct / score.n:.1f}",
        f"{100 * score.difference:+.1f} {interval_text(score.difference_interval, '+.1f', 100)}",
        str(score.unparsed),
    ]
