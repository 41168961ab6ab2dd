"""Scores tables of replies, compares the scores with VLMEvalKit's, and takes such tables out of runs."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_cli.run_view import open_run
from unimrg_cli.view import View
from unimrg_trainer.evaluation.benchmarks.published import PUBLISHED
from unimrg_trainer.evaluation.benchmarks.tsv import PREDICTIONS, named, own_table, score_table
from unimrg_trainer.evaluation.result import Table
from unimrg_trainer.evaluation.vlmevalkit.choices import RULE_SETS
from unimrg_trainer.evaluation.vlmevalkit.compare import as_our_metrics
from unimrg_trainer.evaluation.vlmevalkit.replies import Kind
from unimrg_trainer.evaluation.vlmevalkit.tables import broken, need_columns, read_scores, read_table
from unimrg_trainer.storage.base import NotFound

SEED = 0
"""Of the intervals in the table."""
EQUAL = 1e-9
"""Percentages that differ by less are the same."""


class Difference(View):
    """One metric, in percent, here and in VLMEvalKit's table of results."""

    metric: str
    ours: float
    theirs: float


class ScoreReport(View):
    """Scores of a table of replies."""

    benchmark: str
    rule_set: str
    metrics: dict[str, float]
    warnings: list[str]
    table: Table
    compared: int = 0
    """Metrics that VLMEvalKit's table of results has too."""
    differences: list[Difference] = Field(default=[])
    """Those of them that differ."""


def score_predictions(path: Path, benchmark: str, kind: Kind, rule_set: str, against: Path | None) -> ScoreReport:
    """Score a file of replies; `benchmark` and `rule_set` are named as in a job.

    Raises UserError: 66 without the file, 65 for a table that cannot be scored or shares no metric with `against`.
    """
    rules = PUBLISHED[benchmark] if benchmark in PUBLISHED else own_table(kind)
    rows = read_table(path)
    if not rows:
        raise broken(path, "it has no rows, or is none of .tsv, .csv, .xlsx and .json")
    need_columns(path, rows, "index", "answer")
    if not any("prediction" in row for row in rows):
        need_columns(path, rows, "prediction")
    with named(path):
        result = score_table(rules, rows, [row.get("prediction", "") for row in rows], RULE_SETS[rule_set], SEED)
    report = ScoreReport(
        benchmark=rules.name,
        rule_set=RULE_SETS[rule_set],
        metrics=result.metrics,
        warnings=list(result.warnings),
        table=result.table,
    )
    if against is None:
        return report
    theirs = as_our_metrics(rules, read_scores(against))
    shared = [name for name in theirs if name in result.metrics]
    if not shared:
        raise UserError(
            f"{against} has no score of {rules.name}",
            remedy="give the *_acc.csv or *_score.csv that VLMEvalKit wrote for this benchmark",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    differences = [
        Difference(metric=name, ours=result.metrics[name], theirs=theirs[name])
        for name in shared
        if abs(result.metrics[name] - theirs[name]) > EQUAL
    ]
    return report.model_copy(update={"compared": len(shared), "differences": differences})


def disagreement(report: ScoreReport) -> UserError | None:
    """Return the error to end with if VLMEvalKit's scores are others."""
    if not report.differences:
        return None
    return UserError(
        f"{len(report.differences)} of {report.compared} scores differ from VLMEvalKit's",
        remedy="was a judge used there, or another rule set or version? docs/how-to/evaluation.md lists what differs",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def export_predictions(target: str, benchmark: str, out: Path) -> str:
    """Copy a run's table of replies to `out`, and return what to say about it.

    Raises UserError (66) for a benchmark of which the run has none; its message lists the others.
    """
    store = open_run(target)
    try:
        content = store.get(f"results/{benchmark}/{PREDICTIONS}")
    except NotFound:
        pattern = re.compile(rf"results/(.+)/{re.escape(PREDICTIONS)}")
        found = [match.group(1) for key, _ in store.list("results/") if (match := pattern.fullmatch(key))]
        raise UserError(
            f"{store.uri} has no table of replies of {benchmark}",
            remedy=f"choose one of {', '.join(sorted(found))}"
            if found
            else "evaluate the run on a benchmark of answers",
            exit_code=ExitCode.INPUT_MISSING,
        ) from None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}", remedy="name another file") from None
    return f"{out}: VLMEvalKit scores it with PRED_FORMAT=tsv, under the name MODEL_DATASET.tsv"
