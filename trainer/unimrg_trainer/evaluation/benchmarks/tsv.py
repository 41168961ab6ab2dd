"""Benchmarks whose questions stand in one of VLMEvalKit's tables: asking them, and scores from a table of replies.

The five that ship are a few lines each (`mmbench.py` and others): where their file comes from, what its rows must be,
and what each row contributes. `benchmark` is that of a table of one's own.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
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
from unimrg_trainer.evaluation.intervals import bootstrap_ratio_interval, cluster_sums, interval_text
from unimrg_trainer.evaluation.result import in_metric
from unimrg_trainer.evaluation.vlmevalkit.choices import RULE_SETS
from unimrg_trainer.evaluation.vlmevalkit.prompts import choice_prompt, prompts_digest, yes_no_prompt
from unimrg_trainer.evaluation.vlmevalkit.replies import (
    Kind,
    Reply,
    answer_counts_file,
    never_right,
    read_replies,
    reply_metrics,
    reply_warnings,
)
from unimrg_trainer.evaluation.vlmevalkit.tables import QuestionTable, Row, file_md5, read_questions, write_predictions
from unimrg_trainer.models.requests import AnswerRequest, PromptStyle

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 1024
"""VLMEvalKit's limit of a reply."""
PREDICTIONS = "predictions.tsv"
"""The table of predictions, among a benchmark's files."""


@dataclass(frozen=True)
class Source:
    """Where the file of a benchmark comes from, and what it must be."""

    file: str
    url: str
    md5: str
    rows: int
    """Rows that are asked."""


Contributions = Mapping[str, Mapping[str, float]]
"""Index → metric → what the row contributes to it, 0…1."""


def each_right(replies: Sequence[Reply]) -> Contributions:
    """Return the contributions to `acc`, where every row counts for itself."""
    return {reply.index: {"acc": float(reply.right)} for reply in replies}


def image_of(row: Row) -> str:
    """Return what questions about one image have in common; the index where the table does not say."""
    return row.get("image_id", row["index"])


def categories_of(row: Row) -> list[str]:
    """Return the two categories that VLMEvalKit's tables know."""
    return [row[column] for column in ("category", "l2-category") if column in row]


@dataclass(frozen=True)
class TableRules:
    """How a benchmark is asked and scored."""

    name: str
    """As in the job."""
    kind: Kind
    headline: tuple[str, ...]
    source: Source | None = None
    """None: a table of one's own."""
    contributions: Callable[[Sequence[Reply]], Contributions] = each_right
    clusters: Callable[[Sequence[Row]], Mapping[str, str]] = lambda rows: {row["index"]: image_of(row) for row in rows}
    """Index → what rows that are not independent have in common."""
    groups: Callable[[Row], list[str]] = categories_of
    """The groups that a row is counted in besides; the first one is its category in results."""
    by_group: tuple[str, ...] = ("acc",)
    """Metrics that are given for each group, as METRIC/GROUP."""
    further: Callable[[Sequence[Reply]], dict[str, float]] = lambda replies: {}
    """Metrics that are no mean over rows."""
    check: Callable[[Sequence[Row]], None] = lambda rows: None
    """Raises UserError (65) for rows that cannot be scored."""
    doubts: Callable[[Sequence[Row]], list[str]] = lambda rows: []
    """What is missing among the rows, in sentences."""

    def prompt(self, row: Row, style: PromptStyle) -> str:
        """Return what is asked about a row's image."""
        return choice_prompt(row, style) if self.kind == "MultipleChoice" else yes_no_prompt(row, style, self.name)


def score_table(
    rules: TableRules, rows: Sequence[Row], predictions: Sequence[str], rule_set: str, seed: int, *, part: bool = False
) -> BenchmarkResult:
    """Score a table of replies: rows with `index`, `answer` and what the benchmark needs, and the text for each.

    `rule_set` is a value of `RULE_SETS`, `seed` that of intervals; `part`: not all of the benchmark was to be asked.
    Metrics are in percent. Raises UserError (65) for rows that cannot be scored.
    """
    if not rows:
        raise UserError("the table of replies has no rows", exit_code=ExitCode.DATA_CORRUPT)
    rules.check(rows)
    replies = read_replies(rows, predictions, rules.kind, rule_set)
    given, clusters = rules.contributions(replies), rules.clusters(rows)
    items = tuple(
        ItemScore(
            reply.index,
            clusters[reply.index],
            next(iter(rules.groups(reply.row)), ""),
            dict(given[reply.index]),
            question=reply.row.get("question", "")[:500],
            truth=reply.row["answer"][:500],
            prediction=reply.prediction[:500],
            extracted=reply.extracted,
        )
        for reply in replies
    )
    members: dict[str, list[ItemScore]] = defaultdict(list)
    for reply, item in zip(replies, items, strict=True):
        for group in dict.fromkeys(rules.groups(reply.row)):
            members[group].append(item)
    metrics = means(items) | rules.further(replies)
    for group in sorted(members):
        named = means(members[group])
        metrics |= {f"{metric}/{in_metric(group)}": named[metric] for metric in rules.by_group if metric in named}
    never = [
        f"{said[:1].upper()}{said[1:]}; no reply to them is right, as in VLMEvalKit."
        for said in never_right(rows, rules.kind)
    ]
    warnings = [*never, *rules.doubts(rows), *reply_warnings(replies)]
    if rules.source and len(rows) != rules.source.rows and not part:
        warnings.insert(0, f"Scored are {len(rows)} rows; the whole table has {rules.source.rows}.")
    return BenchmarkResult(
        metrics | reply_metrics(replies),
        rules.headline,
        _table(rules, items, members, seed),
        items,
        provenance={"rule_set": rule_set, "judge": "none"},
        warnings=tuple(warnings),
        files={"answers.tsv": answer_counts_file(replies)},
    )


def means(items: Iterable[ItemScore]) -> dict[str, float]:
    """Return metric → 100 × mean over the items that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for item in items:
        for metric, value in item.scores.items():
            values[metric].append(value)
    return {metric: 100 * math.fsum(of_metric) / len(of_metric) for metric, of_metric in values.items()}


def _table(
    rules: TableRules, items: Sequence[ItemScore], members: Mapping[str, Sequence[ItemScore]], seed: int
) -> Table:
    metrics = [*rules.headline, *(metric for metric in means(items) if metric not in rules.headline)]
    rows = []
    for group, of_group in {"all": items, **dict(sorted(members.items()))}.items():
        named, first = means(of_group), rules.headline[0]
        values = [(item.scores[first], item.cluster) for item in of_group if first in item.scores]
        sums = cluster_sums([value for value, _ in values], [cluster for _, cluster in values])
        interval = interval_text(bootstrap_ratio_interval(*sums, seed=seed), ".1f", 100) if group == "all" else ""
        cells = [f"{named[metric]:.1f}" if metric in named else "–" for metric in metrics]
        rows.append([group, str(len(of_group)), *cells, interval])
    return Table(f"{rules.name}, %", ["", "rows", *metrics, f"{rules.headline[0]}, 95 %"], rows)


class TsvBenchmark:
    """Asks the questions of a table greedily; settings as in `spec.stages.evaluate.benchmarks`."""

    max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, rules: TableRules, settings: Mapping[str, Any], place: BenchmarkPlace) -> None:
        self._rules, self._place = rules, place
        self._limit: int | None = settings.get("limit")
        self._rule_set = RULE_SETS[settings.get("ruleSet") or "Vk0020"]
        self._any_file = bool(settings.get("anyFile"))
        self._uri: str | None = settings.get("file")
        self._md5 = ""
        """Of the table that was asked. It is not kept itself: images of a suite would fill every rank's memory."""
        self.name = rules.name

    def check_files(self) -> None:
        """Raise UserError: 66 without the table, or where it is another one than meant; 65 if it cannot be scored."""
        path, md5 = self._file()
        published = self._rules.source is not None and md5 == self._rules.source.md5  # then its images need no look
        table = self._read(path, md5, images_too=not published)
        if not published:
            rows = first_clusters(table.rows, self._rules.clusters(table.rows), self._limit)
            with named(path):
                table.check_images(row["index"] for row in rows)

    def items(self, subject: Subject) -> Items:
        """One item for each row; those that are not independent share a key."""
        table = self._read(*self._file())
        self._md5 = table.md5
        clusters = self._rules.clusters(table.rows)
        rows = first_clusters(table.rows, clusters, self._limit)

        def without_image(number: int) -> Item:
            row = rows[number]
            request = AnswerRequest(self._rules.prompt(row, subject.prompts))
            return Item(clusters[row["index"]], request, row["answer"], {"row": row, "style": subject.prompts.name})

        def item(number: int) -> Item:
            bare = without_image(number)
            return replace(bare, request=replace(bare.request, image=table.image(rows[number]["index"])))

        return LazyItems(len(rows), item, without_image)

    def score(self, results: Iterable[tuple[Item, Result]], seed: int) -> BenchmarkResult:
        """Scores of the replies, with the table of predictions as VLMEvalKit would have written it."""
        asked = [(item.attributes, item.request.prompt, str(reply)) for item, reply in results]
        rows = [attributes["row"] for attributes, _, _ in asked]
        replies = [reply for _, _, reply in asked]
        result = score_table(self._rules, rows, replies, self._rule_set, seed, part=self._limit is not None)
        source, warnings = self._rules.source, result.warnings
        if source and self._md5 != source.md5:
            another = f"The table is another one than VLMEvalKit's: its MD5 is {self._md5}, not {source.md5}."
            warnings = (*warnings, another)
        return replace(
            result,
            provenance=result.provenance
            | {
                "data_md5": self._md5,
                "prompt_sha256": prompts_digest(
                    (attributes["row"]["index"], prompt) for attributes, prompt, _ in asked
                ),
                "prompt_style": asked[0][0]["style"],
            },
            warnings=warnings,
            files=result.files | {PREDICTIONS: write_predictions(rows, replies)},
        )

    def _file(self) -> tuple[Path, str]:
        """Return the table's path and MD5. Raises UserError (66) for another file than the published one."""
        source, path = self._rules.source, self._path()
        md5 = file_md5(path)
        if source and not self._any_file and md5 != source.md5:
            raise UserError(
                f"{self._place.field}: {path} is not the {source.file} that VLMEvalKit scores: its MD5 is {md5} "
                f"and not {source.md5}",
                remedy=f"fetch it from {source.url}, or set anyFile: true to score this one; results say so then",
                exit_code=ExitCode.INPUT_MISSING,
            )
        return path, md5

    def _read(self, path: Path, md5: str, *, images_too: bool = True) -> QuestionTable:
        table = read_questions(path, md5, images_too=images_too)
        with named(path):
            check_questions(self._rules, table)
        logger.info("%s: %d rows to ask, %d without an image", path, len(table.rows), table.without_image)
        if table.vanished:
            first = "; ".join(table.vanished[:3])
            logger.warning("%s: %d options read as missing, as in VLMEvalKit: %s", path, len(table.vanished), first)
        return table

    def _path(self) -> Path:
        source = self._rules.source
        if source is None:
            return self._place.open_uri(str(self._uri))
        try:
            return self._place.open(source.file)
        except UserError as error:
            remedy = f"{error.remedy}; {source.file} comes from {source.url} and has the MD5 {source.md5}"
            raise UserError(error.message, remedy=remedy, exit_code=error.exit_code) from None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Begin messages about a table with its path."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error.message}", remedy=error.remedy, exit_code=error.exit_code) from None


def check_questions(rules: TableRules, table: QuestionTable) -> None:
    """Raise UserError (65) for questions whose answers could not be scored, before anyone is asked.

    Rows that no reply can answer are refused in every table but the published one, which is scored as it stands.
    """
    rules.check(table.rows)
    said = never_right(table.rows, rules.kind)
    if said and not (rules.source and table.md5 == rules.source.md5):
        raise UserError(
            "; ".join(said),
            remedy="correct them or take them out, and name the table in an entry `tsv`",
            exit_code=ExitCode.DATA_CORRUPT,
        )


def first_clusters(rows: Sequence[Row], clusters: Mapping[str, str], limit: int | None) -> Sequence[Row]:
    """Return the rows of the first whole clusters that have at most `limit` rows together; at least one cluster."""
    if limit is None:
        return rows
    taken: set[str] = set()
    total = 0
    for name, size in Counter(clusters[row["index"]] for row in rows).items():
        if taken and total + size > limit:
            break
        taken.add(name)
        total += size
    return [row for row in rows if clusters[row["index"]] in taken]


def own_table(kind: Kind) -> TableRules:
    """Return the rules of a table of one's own."""
    return TableRules("tsv", kind, ("acc",))


def benchmark(settings: Mapping[str, Any], place: BenchmarkPlace) -> TsvBenchmark:
    """Return the benchmark of a table of one's own."""
    return TsvBenchmark(own_table(settings["kind"]), settings, place)
