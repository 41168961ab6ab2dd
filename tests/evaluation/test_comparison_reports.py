"""Reports: grouping, comparison against scipy and arithmetic by hand, refusals, and the pages that are written."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.support.benchmark_tables import choice_rows, hallusion_rows, mmbench_rows, mmvp_rows, yes_no_rows
from tests.support.evaluated_runs import DATE, PROVENANCE, made_up_run, read, result_of
from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.benchmarks import hallusionbench, mmbench, mmvp, realworldqa, vsr
from unimrg_trainer.evaluation.benchmarks.tsv import score_table
from unimrg_trainer.evaluation.intervals import Interval, bootstrap_means, cluster_sums
from unimrg_trainer.evaluation.reports.page import as_page
from unimrg_trainer.evaluation.reports.report import Report, make_report
from unimrg_trainer.evaluation.reports.text import as_csv, as_markdown
from unimrg_trainer.evaluation.reports.wording import notes_of, run_rows
from unimrg_trainer.evaluation.result import BenchmarkResult, ItemScore


def answers(right: Sequence[int], per_cluster: int = 1, category: str = "") -> BenchmarkResult:
    """A result of the benchmark `mmvp` whose items are right or wrong as given."""
    items = [
        ItemScore(f"{number:04d}", f"{number // per_cluster}", category, {"acc_question": float(one)}, f"Q{number}")
        for number, one in enumerate(right)
    ]
    return result_of("mmvp", items)


def pair(folder: Path, base: Sequence[int], trained: Sequence[int], per_cluster: int = 1) -> Report:
    """A report on a base and one trained run that were asked the same."""
    runs = [
        made_up_run(folder / "base", initial=True, benchmarks=(), results={"mmvp": answers(base, per_cluster)}),
        made_up_run(folder / "run", benchmarks=(), results={"mmvp": answers(trained, per_cluster)}),
    ]
    return make_report([read(run) for run in runs], date=DATE)


def test_clustered_intervals_are_those_that_scipy_draws() -> None:
    rng = np.random.default_rng(5)
    clusters = [f"c{number // 4}" for number in range(400)]
    kinds = np.array(["a", "b"])[np.arange(400) // 4 % 2]
    values = rng.normal(size=100).repeat(4) + rng.normal(size=400) + (kinds == "b")
    columns = np.stack([values, *(np.where(kinds == kind, values, np.nan) for kind in "ab")], axis=1)
    whole, of_kinds, one = bootstrap_means(columns, clusters, [[0], [1, 2], [2]], seed=3)
    assert whole is not None and of_kinds is not None and one is not None

    units = {
        kind: [np.array(part) for part in cluster_sums(np.where(kinds == kind, values, 0), clusters)] for kind in "ab"
    }
    rows = {kind: cluster_sums((kinds == kind).astype(float), clusters)[0] for kind in "ab"}

    def drawn(statistic: object, *data: np.ndarray) -> tuple[float, float]:
        options = {"paired": True, "vectorized": False, "n_resamples": 4000, "method": "percentile", "random_state": 1}
        return tuple(stats.bootstrap(data, statistic, **options).confidence_interval)

    sums = [units["a"][0], rows["a"], units["b"][0], rows["b"]]
    expected = drawn(lambda a, n, b, m: (a.sum() + b.sum()) / (n.sum() + m.sum()), *sums)
    assert (whole.low, whole.high) == pytest.approx(expected, abs=0.02)
    expected = drawn(lambda a, n, b, m: (a.sum() / n.sum() + b.sum() / m.sum()) / 2, *sums)
    assert (of_kinds.low, of_kinds.high) == pytest.approx(expected, abs=0.02)
    expected = drawn(lambda a, n, b, m: b.sum() / m.sum(), *sums)
    assert (one.low, one.high) == pytest.approx(expected, abs=0.03)
    assert bootstrap_means(columns, ["one"] * 400, [[0], [1, 2]], seed=3) == [None, None]
    lonely = np.where(np.arange(400) < 4, values, np.nan)[:, None]
    assert bootstrap_means(lonely, clusters, [[0]], seed=3) == [None]


def test_two_checkpoints_are_compared_on_the_same_items(tmp_path: Path) -> None:
    base = [1] * 50 + [0] * 50
    trained = [1] * 48 + [0] * 2 + [1] * 12 + [0] * 38
    (model,) = pair(tmp_path, base, trained).models
    cell = model.main.cells[1, 0]
    assert (cell.mean.mean, cell.n, cell.notes) == (pytest.approx(60), 100, ())
    assert cell.difference is not None and cell.difference.interval is not None
    assert cell.difference.value == pytest.approx(10)
    assert cell.difference.p_value == pytest.approx(stats.binomtest(2, 14).pvalue)
    half = 1.96 * np.std(np.array(trained) - np.array(base)) * 10
    assert cell.difference.interval.high - cell.difference.interval.low == pytest.approx(2 * half, rel=0.1)
    assert cell.best and not model.main.cells[0, 0].best
    (flips,) = model.flips
    assert (flips.gained, flips.lost) == (12, 2)
    assert [flip.before.question for flip in flips.shown_lost] == ["Q48", "Q49"]


def test_nothing_is_bold_where_the_lead_may_be_chance(tmp_path: Path) -> None:
    (model,) = pair(tmp_path, [1, 0] * 50, [1, 0] * 48 + [1, 1, 1, 0]).models
    assert not any(cell.best for cell in model.main.cells.values())
    assert "**" not in as_markdown(Report(DATE, [model], []))


def test_a_score_of_nothing_but_wrong_answers_is_not_certain(tmp_path: Path) -> None:
    (model,) = pair(tmp_path, [0] * 40, [1] * 40, per_cluster=2).models
    (nothing, everything) = (model.main.cells[row, 0].interval for row in (0, 1))
    z = stats.norm.ppf(0.975)
    assert nothing is not None and (nothing.low, nothing.high) == (0, pytest.approx(100 * z * z / (20 + z * z)))
    assert everything is not None and (everything.low, everything.high) == (pytest.approx(100 - nothing.high), 100)


def test_items_of_a_cluster_widen_the_interval(tmp_path: Path) -> None:
    base, trained = [0] * 120, ([1] * 4 + [0] * 4) * 15
    for per_cluster in (1, 4):
        pair(tmp_path / str(per_cluster), base, trained, per_cluster)
    widths = []
    for per_cluster in (1, 4):
        (model,) = make_report([read(one) for one in (tmp_path / str(per_cluster)).iterdir()], date=DATE).models
        difference = model.main.cells[1, 0].difference
        assert difference is not None and difference.interval is not None
        widths.append(difference.interval.high - difference.interval.low)
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.1)  # four rows that are always equal are one


def test_seeds_are_averaged_and_other_settings_are_ablations(tmp_path: Path) -> None:
    few = ("mmvp",)
    objectives = {"Understanding": 1.0, "Pixel": 1.0, "Segmentation": 1.0}
    runs = [
        made_up_run(tmp_path / "no-depth", training={"objectives": objectives}, benchmarks=few),
        *(made_up_run(tmp_path / f"s{seed}", seed=seed, benchmarks=few) for seed in (3, 1, 2)),
        made_up_run(tmp_path / "sft", method="SFT", skill=0.5, benchmarks=few),
        made_up_run(tmp_path / "slow", training={"optimizer": {"learningRate": 1e-6}}, benchmarks=few),
        made_up_run(tmp_path / "base", initial=True, seed=0, benchmarks=few),
    ]
    read_runs = [read(run) for run in runs]
    (model,) = make_report(read_runs, date=DATE).models
    assert [row.label for row in model.main.rows] == ["base", "SFT", "UniMRG"]
    assert [run.seed for run in model.main.rows[2].runs] == [1, 2, 3]
    scores = [run.summary.benchmarks["mmvp"].metrics["acc_question"] for run in read_runs[1:4]]
    mean = model.main.cells[2, 0].mean
    assert (mean.mean, mean.deviation, mean.jobs) == (
        pytest.approx(np.mean(scores)),
        pytest.approx(np.std(scores, ddof=1)),
        3,
    )
    assert model.main.cells[2, 0].difference is not None and model.main.cells[2, 0].difference.p_value is None
    ((ablation, table),) = model.ablations
    assert ablation.method == "UniMRG"
    assert {row.label for row in table.rows} == {"UniMRG", "without Depth", "optimizer.learningRate 1e-06"}
    assert table.rows[0].label == "UniMRG" and table.baseline == 0
    assert [line[0] for line in run_rows(model)][-2:] != ["UniMRG", "UniMRG"]
    assert as_csv(make_report(read_runs[::-1], date=DATE)) == as_csv(make_report(read_runs, date=DATE))


def test_a_mean_of_categories_stays_one(tmp_path: Path) -> None:
    runs = [
        read(made_up_run(tmp_path / name, initial=name == "base", skill=skill, benchmarks=("genEval",)))
        for name, skill in (("base", 0.5), ("run", 0.6))
    ]
    (model,) = make_report(runs, date=DATE).models
    (table,) = model.main.categories
    cell = model.main.cells[1, 0]
    assert cell.mean.mean == pytest.approx(np.mean([one.mean for one in table.cells[1].values()]))
    assert dict(table.counts)["two_object"] == 4 * 99
    assert cell.interval is not None and cell.interval.low < cell.mean.mean < cell.interval.high


def test_runs_that_were_scored_differently_are_refused(tmp_path: Path) -> None:
    base = made_up_run(tmp_path / "base", initial=True, benchmarks=(), results={"mmvp": answers([1, 0])})
    other = replace(answers([1, 1]), provenance={**PROVENANCE, "rule_set": "Vk202606", "prompt_sha256": "beef"})
    run = made_up_run(tmp_path / "run", benchmarks=(), results={"mmvp": other})
    with pytest.raises(UserError) as error:
        make_report([read(base), read(run)], date=DATE)
    assert "rule_set is Vk0020 there and Vk202606 here; prompt_sha256 is 0f3a5b there and beef here" in str(error.value)
    assert "evaluate one of them again" in error.value.remedy
    changed = made_up_run(tmp_path / "items", benchmarks=(), results={"mmvp": answers([1, 0, 1])})
    with pytest.raises(UserError, match="2 items there and 3 here"):
        make_report([read(base), read(changed)], date=DATE)
    (base / "results/items/mmvp.jsonl").unlink()
    two = made_up_run(tmp_path / "two", seed=2, benchmarks=(), results={"mmvp": answers([1, 0])})
    with pytest.raises(UserError, match="3 items there and 2 here"):
        make_report([read(base), read(changed), read(two)], date=DATE)
    base = two
    changed = made_up_run(tmp_path / "clusters", benchmarks=(), results={"mmvp": answers([1, 0], per_cluster=2)})
    with pytest.raises(UserError, match="an item, its cluster and category are"):
        make_report([read(base), read(changed)], date=DATE)


def test_held_out_data_of_two_kinds_is_not_compared(tmp_path: Path) -> None:
    own = replace(answers([1, 0]), provenance={})
    runs = [
        made_up_run(tmp_path / "base", initial=True, benchmarks=(), results={"mmvp": own}),
        made_up_run(tmp_path / "run", benchmarks=(), results={"mmvp": own}, data_digest="e" * 64),
    ]
    with pytest.raises(UserError, match=r"data_digest is d+ there and e+ here"):
        make_report([read(run) for run in runs], date=DATE)


def test_a_training_given_twice_is_refused(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path / name, benchmarks=(), results={"mmvp": answers([1, 0])}) for name in "ab"]
    with pytest.raises(UserError, match="are the same training with the same seed, 1"):
        make_report([read(run) for run in runs], date=DATE)
    assert len(make_report([read(runs[0]), read(runs[0])], date=DATE).models[0].main.rows[0].runs) == 1


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", benchmarks=(), results={"mmvp": answers([1, 0, 1, 1])})
    file, items = run / "results/summary.json", run / "results/items/mmvp.jsonl"
    summary, lines = file.read_text(), items.read_text().splitlines(keepends=True)
    for content, code, message in (
        (summary.replace('"schema_version": 2', '"schema_version": 1'), 64, "schema_version 1, and this version of"),
        (summary.replace('"steps": 1000', '"steps": "many"'), 65, "is damaged: steps"),
        (summary[:-9], 65, "is damaged"),
        ("[]", 65, "is damaged"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=re.escape(message)) as error:
            read(run)
        assert error.value.exit_code == code and "Traceback" not in str(error.value)
    file.write_text(summary)
    for content, message in (
        (lines[0] + "{\n", "mmvp.jsonl, line 2: Invalid JSON"),
        (lines[0].replace('"item": "0000"', '"item": 0'), "line 1: item: Input should be a valid string"),
        (lines[0] * 4, "two items are called '0000'"),
        ("".join(lines[:2]), "they are not of the same evaluation"),
    ):
        items.write_text(content)
        with pytest.raises(UserError, match=re.escape(message)) as error:
            read(run)
        assert error.value.exit_code == 65
    file.unlink()
    with pytest.raises(UserError, match="has no results") as error:
        read(run)
    assert error.value.exit_code == 66


def test_without_items_a_score_has_no_interval_and_says_so(tmp_path: Path) -> None:
    pair(tmp_path, [1, 0] * 20, [1, 1] * 20)
    (tmp_path / "run/results/items/mmvp.jsonl").unlink()
    report = make_report([read(tmp_path / "base"), read(tmp_path / "run")], date=DATE)
    cell = report.models[0].main.cells[1, 0]
    assert cell.interval is None and cell.difference is not None and cell.difference.interval is None
    assert cell.difference.value == pytest.approx(50) and not cell.best
    assert notes_of(report.models[0]) == [
        f"mmvp (UniMRG): no interval: there is no results/items/mmvp.jsonl in file://{tmp_path}/run"
    ]
    assert "| 100.0† |" in as_markdown(report)


def test_a_score_without_items_is_shown_beside_those_with(tmp_path: Path) -> None:
    results = {}
    for name, right in (("base", [1, 0]), ("run", [1, 1])):
        result = answers(right * 30)
        results[name] = replace(
            result,
            metrics={**result.metrics, "f1": 61.25, "f1_low": 60.0, "f1_high": 63.0, "f2": 1.0},
            headline=("acc_question", "f1", "f2"),
        )
    runs = [
        made_up_run(tmp_path / name, initial=name == "base", benchmarks=(), results={"other": result})
        for name, result in results.items()
    ]
    (model,) = make_report([read(run) for run in runs], date=DATE).models
    assert [column.title for column in model.columns] == ["other acc_question", "other f1", "other f2"]
    assert model.main.cells[1, 1].interval == Interval(60.0, 63.0), "the benchmark's own"
    assert model.main.cells[1, 2].interval is None and model.main.cells[1, 2].notes == ()
    difference = model.main.cells[1, 1].difference
    assert difference is not None and difference.interval is None


def test_what_was_not_scored_or_not_asked_is_noted(tmp_path: Path) -> None:
    unscored = replace(
        answers([1, 0]), metrics={"images": 8.0}, headline=("images",), items=(), warnings=("No judge.",)
    )
    results = {"mmvp": answers([1, 0]), "other": unscored}
    runs = [
        made_up_run(tmp_path / "one", benchmarks=(), results=results),
        made_up_run(
            tmp_path / "two", seed=2, benchmarks=(), results=results, steps=500, left_out={"vsr": "nothing answers"}
        ),
    ]
    (model,) = make_report([read(run) for run in runs], date=DATE).models
    assert [column.benchmark for column in model.columns] == ["mmvp"]
    assert notes_of(model) == [
        "nothing is compared: no run has the initial weights of openuni L-512, or was given as --base",
        "UniMRG: its runs were evaluated at different steps, 500, 1000",
        "other (UniMRG): not scored; No judge.",
        "vsr (UniMRG): not asked: nothing answers",
    ]


def test_published_benchmarks_come_in_their_order_with_their_items(tmp_path: Path) -> None:
    rng = random.Random(4)
    tables = {
        "vsr": (vsr.RULES, yes_no_rows(rng, 30)),
        "realWorldQa": (realworldqa.RULES, choice_rows(rng, 30)),
        "hallusionBench": (hallusionbench.RULES, hallusion_rows(rng, 20)),
        "mmvp": (mmvp.RULES, mmvp_rows(rng, 20)),
        "mmbench": (mmbench.RULES, mmbench_rows(rng, 20)),
    }
    runs = []
    for name in ("base", "run"):
        results = {}
        for benchmark, (rules, rows) in tables.items():
            replies = [row["answer"] if rng.random() < 0.5 or name == "run" else "neither" for row in rows]
            results[benchmark] = score_table(rules, rows, replies, "vk-0.0.20", seed=0)
        runs.append(made_up_run(tmp_path / name, initial=name == "base", benchmarks=(), results=results))
    (model,) = make_report([read(run) for run in runs], date=DATE).models
    titles = ["MMBench circular", "MMBench vanilla", "MMVP", "HallusionBench aAcc", "RealWorldQA", "VSR"]
    assert [column.title for column in model.columns] == titles
    trained = [model.main.cells[1, index] for index in range(len(titles))]
    assert [cell.mean.mean for cell in trained] == [100] * len(titles)
    assert all(cell.interval and cell.difference and cell.difference.interval for cell in trained)
    assert "MMBench circular" in [table.column.title for table in model.main.categories]


def test_quoted_numbers_are_marked_and_stand_alone(tmp_path: Path) -> None:
    report = pair(tmp_path, [1, 0] * 20, [1, 1] * 20)
    markdown = as_markdown(report)
    assert "| base, paper ‡ | 71.67‡ |" in markdown and "| UniMRG, paper ‡ | 74.67‡ Δ +3.00 |" in markdown
    assert "second-hand (grade S)" in markdown and "paper" in as_page(report)
    quoted = [row for row in csv.DictReader(io.StringIO(as_csv(report))) if row["quoted"]]
    assert [(row["row"], row["score"], row["low"]) for row in quoted][:2] == [
        ("base", "71.67", ""),
        ("UniMRG", "74.67", ""),
    ]
    assert [cell.mean.mean for cell in report.models[0].main.cells.values()] == [50, 100]
    runs = [read(tmp_path / name) for name in ("base", "run")]
    assert "‡ Quoted" not in as_markdown(make_report(runs, date=DATE, quoted=False))
