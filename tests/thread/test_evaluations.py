"""Evaluations without a training, in real processes: the same table at any world size, and after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.support.benchmark_tables import image, write_table, yes_no_rows
from tests.support.local_jobs import tiny_job
from tests.thread.test_interruptions import start
from unimrg_trainer.evaluation.blocks import FOLDER
from unimrg_trainer.evaluation.runner import ANSWER_BLOCK
from unimrg_trainer.evaluation.summary import Summary

BASE = Path(__file__).parents[2] / "examples/tiny_base/harmon-tiny.safetensors"
QUESTIONS = 3 * ANSWER_BLOCK + 5


def write_job(folder: Path, processes: int) -> Path:
    """A job that puts a table of questions, each about an image of its own, to the tiny Harmon; it has no data.

    Its weights are pretrained, so that answers end.
    """
    folder.mkdir()
    rows = [row | {"image": image(number)} for number, row in enumerate(yes_no_rows(random.Random(3), QUESTIONS))]
    write_table(folder / "own.tsv", rows)
    evaluate = {"benchmarks": [{"tsv": {"file": "file://own.tsv", "kind": "YesNo"}}]}
    _, file = tiny_job(
        folder,
        data=None,
        model__init=BASE.as_uri(),
        trainer__processesPerNode=processes,
        stages={"train": {"mode": "Never"}, "evaluate": evaluate},
    )
    return file


def table(job: Path) -> bytes:
    return (job.parent / "run/results/tsv/predictions.tsv").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_table_is_the_same_at_any_world_size_and_after_a_kill(tmp_path: Path) -> None:
    jobs = {processes: write_job(tmp_path / f"of-{processes}", processes) for processes in (1, 4)}
    for job in jobs.values():
        assert start(job).wait() == 0
    assert table(jobs[1]) == table(jobs[4])
    summary = Summary.from_json((tmp_path / "of-1/run/results/summary.json").read_text())
    assert (summary.weights, summary.steps, summary.benchmarks["tsv"].metrics["n"]) == ("initial", 0, QUESTIONS)
    items = (tmp_path / "of-1/run/results/items/tsv.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in items] == [str(number) for number in range(QUESTIONS)]

    killed = write_job(tmp_path / "killed", 2)
    command, blocks = start(killed), tmp_path / "killed/run" / FOLDER
    command.wait_until(lambda: any(blocks.glob("*/*")))
    os.killpg(command.process.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in blocks.glob("*/*")}
    assert 0 < len(before) <= QUESTIONS // ANSWER_BLOCK + 1
    resumed = start(killed)
    assert resumed.wait() == 0
    assert table(killed) == table(jobs[1])
    after = {path.name: path.stat().st_mtime_ns for path in blocks.glob("*/*")}
    assert {name: after[name] for name in before} == before, "what was finished is not asked again"
