"""Images of GenEval and DPG-Bench in a job without training: written, judged where judges are named, the same on two
processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.geneval_records import save_records
from tests.support.local_jobs import tiny_job
from tests.support.tiny_judges import save_mask2former
from tests.thread.test_interruptions import start
from unimrg_trainer.evaluation.summary import Summary

BASE = Path(__file__).parents[2] / "examples/tiny_base/harmon-tiny.safetensors"


def write_job(folder: Path, processes: int, files: Path) -> Path:
    folder.mkdir()
    benchmarks = [
        {"genEval": {"imagesPerPrompt": 2, "limit": 12, "detector": (files / "detector").as_uri()}},
        {"dpgBench": {"imagesPerPrompt": 1, "limit": 3}},
    ]
    _, file = tiny_job(
        folder,
        data=None,
        model={
            "init": BASE.as_uri(),
            "harmon": {"variant": "Tiny", "sampling": {"steps": 2, "diffusionSteps": 4, "guidance": "1"}},
        },
        trainer__processesPerNode=processes,
        stages={"train": {"mode": "Never"}, "evaluate": {"files": files.as_uri(), "benchmarks": benchmarks}},
    )
    return file


def written(job: Path) -> dict[str, bytes]:
    """All files of both benchmarks by their names."""
    results = job.parent / "run/results"
    paths = [path for name in ("genEval", "dpgBench") for path in (results / name).rglob("*") if path.is_file()]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_images_and_decisions_are_the_same_on_two_processes(tmp_path: Path) -> None:
    save_records(tmp_path)
    save_mask2former(tmp_path / "detector")
    (tmp_path / "dpg_bench").mkdir()
    with (tmp_path / "dpg_bench" / "dpg_bench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"])
        writer.writerows([f"item{n}", f"{n} cups.", 1, "0", "entity - whole (cup)", "a cup?"] for n in range(1065))
    jobs = [write_job(tmp_path / f"of-{processes}", processes, tmp_path) for processes in (1, 2)]
    for job in jobs:
        assert start(job).wait() == 0
    one, two = map(written, jobs)
    assert one == two and sum(name.endswith(".png") for name in one) == 12 + 3
    assert {"genEval/00000/metadata.jsonl", "genEval/00000/samples/0001.png", "dpgBench/item355_0.png"} <= set(one)
    assert len({content for name, content in one.items() if name.endswith(".png")}) == 15, "each has noise of its own"
    decisions = [json.loads(line) for line in one["genEval/results.jsonl"].splitlines()]
    assert len(decisions) == 8, "of the six tags two name colours, and there is no judge of these"
    summary = Summary.from_json((jobs[0].parent / "run/results/summary.json").read_text())
    geneval, dpg = summary.benchmarks["genEval"], summary.benchmarks["dpgBench"]
    assert set(geneval.metrics) == {"images", "single_object", "two_object", "counting", "position"}
    assert "4 images of prompts about colours were not scored" in geneval.warnings[0]
    assert dpg.metrics == {"images": 3.0} and "3 images were written and not scored" in dpg.warnings[0]
