from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmark_subject import PLACE, subject
from tests.support.benchmark_tables import image, mmbench_rows, mmvp_rows, write_table, yes_no_rows
from unimrg_api.errors import UserError
from unimrg_trainer.evaluation.benchmarks import realworldqa
from unimrg_trainer.evaluation.benchmarks.base import Benchmark, BenchmarkResult, LazyItems, NeedsFiles
from unimrg_trainer.evaluation.benchmarks.registry import find_benchmark
from unimrg_trainer.evaluation.benchmarks.tsv import TsvBenchmark
from unimrg_trainer.evaluation.vlmevalkit.tables import file_md5, read_table

SEED = 0


def made(folder: Path, name: str, settings: dict[str, Any]) -> Benchmark:
    return find_benchmark(name, settings, replace(PLACE, files=folder.as_uri()))


def ask(benchmark: Benchmark, reply: str) -> BenchmarkResult:
    items = benchmark.items(subject())
    return benchmark.score([(items[number], reply) for number in range(len(items))], SEED)


def mmbench_table(folder: Path, questions: int = 3) -> list[dict[str, str]]:
    """Every question has one image, which rotations take from the first row."""
    rows = mmbench_rows(random.Random(0), questions)
    rows.sort(key=lambda row: int(row["index"]))
    for row in rows:
        row["image"] = image(int(row["index"])) if int(row["index"]) < 1_000_000 else str(int(row["index"]) % 1_000_000)
    write_table(folder / "MMBench_DEV_EN.tsv", rows)
    return rows


def test_rows_become_requests_and_replies_become_scores(tmp_path: Path) -> None:
    rows = mmbench_table(tmp_path)
    benchmark = made(tmp_path, "mmbench", {"anyFile": True, "ruleSet": "Vk202606"})
    assert isinstance(benchmark, NeedsFiles)
    benchmark.check_files()
    items = benchmark.items(subject())
    assert len(items) == len(rows)
    assert items[0].request.prompt.startswith("Question: What is 0?\nOptions:\nA. ")
    assert items[0].request.image is not None and items[0].request.image.shape == (8, 8, 3)
    result = ask(benchmark, "A")
    assert result.metrics["acc_vanilla_0"] == 100 * sum(row["answer"] == "A" for row in rows[:3]) / 3
    assert result.metrics["acc_circular"] == 0, "no question has the answer A in all rotations"
    assert [item.item for item in result.items] == [row["index"] for row in rows]
    assert {item.cluster for item in result.items} == {"0", "1", "2"}
    assert result.provenance.keys() == {"rule_set", "judge", "data_md5", "prompt_sha256", "prompt_style"}
    assert (result.provenance["rule_set"], result.provenance["prompt_style"]) == ("vk-2026-06", "vlmevalkit")
    assert any("its MD5 is" in warning and "b6caf1133a01" in warning for warning in result.warnings)


def test_items_are_scored_without_their_images(tmp_path: Path) -> None:
    mmbench_table(tmp_path)
    items = made(tmp_path, "mmbench", {"anyFile": True}).items(subject())
    assert isinstance(items, LazyItems)
    whole, bare = items[1], items.for_score(1)
    assert whole.request.image is not None and bare.request.image is None
    assert (whole.key, whole.request.prompt, whole.truth) == (bare.key, bare.request.prompt, bare.truth)


def test_the_prediction_table_has_every_column_but_the_image(tmp_path: Path) -> None:
    rows = mmbench_table(tmp_path)
    result = ask(made(tmp_path, "mmbench", {"anyFile": True}), "B.\tindeed\n")
    (tmp_path / "p.tsv").write_bytes(result.files["predictions.tsv"])
    read = read_table(tmp_path / "p.tsv")
    assert [row["prediction"] for row in read] == ["B.\tindeed\n"] * len(rows)
    kept = {"index", "question", "answer", "category", "l2-category", "split", "A", "B"}
    for row, source in zip(read, rows, strict=True):
        assert {name: row[name] for name in kept} == {name: source[name] for name in kept}
        assert "image" not in row


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    mmbench_table(tmp_path)
    benchmark = made(tmp_path, "mmbench", {})
    assert isinstance(benchmark, NeedsFiles)
    with pytest.raises(UserError, match=r"its MD5 is [0-9a-f]{32} and not b6caf1133a01c6bb705cf753bb527ed8") as refused:
        benchmark.check_files()
    assert refused.value.exit_code == 66
    assert "fetch it from https://opencompass.openxlab.space/" in refused.value.remedy


def test_a_table_that_is_missing_is_named(tmp_path: Path) -> None:
    benchmark = made(tmp_path, "vsr", {})
    assert isinstance(benchmark, NeedsFiles)
    with pytest.raises(UserError, match=r"there is no file .*VSR-zeroshot\.tsv") as refused:
        benchmark.check_files()
    assert refused.value.exit_code == 66
    assert "huggingface.co" in refused.value.remedy and "5ff5e49908ac1cfad35c60b92b001aeb" in refused.value.remedy


@pytest.mark.parametrize(("limit", "taken"), [(1, ["0"]), (5, ["0"]), (100, ["0", "1", "2"])])
def test_a_limit_takes_whole_clusters(tmp_path: Path, limit: int, taken: list[str]) -> None:
    rows = mmbench_table(tmp_path)
    sizes = [sum(int(row["index"]) % 1_000_000 == question for row in rows) for question in range(3)]
    assert sizes[0] <= 5 < sizes[0] + sizes[1]
    benchmark = made(tmp_path, "mmbench", {"anyFile": True, "limit": limit})
    result = ask(benchmark, "A")
    assert sorted({item.cluster for item in result.items}) == taken
    assert not any("the whole table has" in warning for warning in result.warnings)


def test_pairs_stay_whole_and_share_a_cluster(tmp_path: Path) -> None:
    rows = [{**row, "image": image(int(row["index"]))} for row in mmvp_rows(random.Random(0), 3)]
    write_table(tmp_path / "MMVP.tsv", rows)
    result = ask(made(tmp_path, "mmvp", {"anyFile": True, "limit": 4}), "A")
    assert [item.cluster for item in result.items] == ["1", "1", "3", "3"]


def test_a_table_of_ones_own_is_asked_and_scored(tmp_path: Path) -> None:
    rows = [{**row, "image": image(int(row["index"]) // 2)} for row in yes_no_rows(random.Random(0), 6)]
    write_table(tmp_path / "my things.tsv", rows)
    benchmark = made(tmp_path, "tsv", {"file": f"{tmp_path.as_uri()}/my%20things.tsv", "kind": "YesNo"})
    result = ask(benchmark, "yes")
    assert benchmark.name == "tsv"
    assert result.metrics["acc"] == 100 * sum(row["answer"] == "Yes" for row in rows) / 6
    assert len({item.cluster for item in result.items}) == 3, "questions about one image are one cluster"
    assert not any("whole table" in warning for warning in result.warnings)


def test_questions_without_options_are_refused_before_the_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"index": 1, "image": image(1), "question": "How many?", "answer": "3"}]
    rows += [{"index": 2, "image": image(2), "question": "Which?", "answer": "A", "A": "this", "B": "that"}]
    path = write_table(tmp_path / "RealWorldQA.tsv", rows)
    with pytest.raises(UserError, match=r"rows without options: 1 \(1\)") as refused:
        made(tmp_path, "realWorldQa", {"anyFile": True}).items(subject())
    assert refused.value.exit_code == 65
    published = replace(realworldqa.RULES, source=replace(realworldqa.RULES.source, md5=file_md5(path), rows=2))
    monkeypatch.setattr(realworldqa, "benchmark", partial(TsvBenchmark, published))
    benchmark = made(tmp_path, "realWorldQa", {})
    assert benchmark.items(subject())[0].request.prompt == "Question: How many?\n"
    result = ask(benchmark, "A 3")
    assert result.metrics["acc"] == 50 and result.metrics["unparsed_rate"] == 50
    assert result.warnings[0].startswith("Rows without options: 1 (1); no reply to them is right")
