"""A sweep: the jobs that follow from its matrix, and what is refused in its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unimrg_api.cluster import SWEEP_LABEL
from unimrg_api.errors import JobError
from unimrg_api.load import parse_job, process_spec, read_model
from unimrg_api.sweep import UniMRGSweep
from unimrg_api.yaml_source import Document

BASE: dict[str, Any] = {
    "apiVersion": "training.unimrg.dev/v1alpha1",
    "kind": "UniMRGJob",
    "metadata": {"name": "base", "labels": {"team": "vision"}},
    "spec": {
        "model": {"harmon": {"variant": "Tiny"}},
        "data": {"shards": ["s3://unimrg/data"]},
        "checkpoint": {"uri": "s3://unimrg/base/"},
    },
}
METHODS = {"path": "spec.method", "values": ["SFT", "UniMRG"]}
SEEDS = {"path": "spec.training.seed", "values": [1, 2, 3]}


def sweep(*matrix: dict[str, Any], name: str = "methods") -> UniMRGSweep:
    value = {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGSweep",
        "metadata": {"name": name},
        "spec": {"job": "base.yaml", "matrix": list(matrix)},
    }
    return read_model(UniMRGSweep, Document(value), Path("sweep.yaml"))


def test_there_is_a_job_for_every_combination() -> None:
    before = json.dumps(BASE)
    jobs = sweep(METHODS, SEEDS).jobs(BASE)
    assert json.dumps(BASE) == before
    assert [job.name for job in jobs] == [f"methods-{method}-s{n}" for method in ("sft", "unimrg") for n in (1, 2, 3)]
    last = parse_job(jobs[-1].value)
    assert (last.spec.method, last.spec.training.seed) == ("UniMRG", 3)
    assert last.metadata.labels == {"team": "vision", SWEEP_LABEL: "methods"}
    assert len({job.value["spec"]["checkpoint"]["uri"] for job in jobs}) == 6
    assert last.spec.checkpoint.uri == "s3://unimrg/base/methods/unimrg-s3"
    assert {tuple(job.value["spec"]["data"]["shards"]) for job in jobs} == {("s3://unimrg/data",)}


def test_objectives_and_entries_of_lists_can_vary() -> None:
    depth = [{"name": "Understanding", "weight": "1"}, {"name": "Depth", "weight": "1"}]
    pixel = [{"name": "Understanding", "weight": "1"}, {"name": "Pixel", "weight": "1"}]
    objectives = {"path": "spec.objectives", "values": [depth, pixel], "labels": ["depth", "pixel"]}
    weights = {"path": "spec.objectives[1].weight", "values": ["0.5"]}
    jobs = sweep(objectives, weights).jobs(BASE)
    assert [job.name for job in jobs] == ["methods-depth-0-5", "methods-pixel-0-5"]
    assert parse_job(jobs[0].value).spec.resolved_objectives() == {"Understanding": 1.0, "Depth": 0.5}


def test_the_processes_of_a_job_learn_the_sweep_and_no_other_label() -> None:
    value = sweep(METHODS).jobs(BASE)[0].value
    assert json.loads(process_spec(parse_job(value)))["metadata"]["labels"] == {SWEEP_LABEL: "methods"}


@pytest.mark.parametrize(
    ("matrix", "path", "words"),
    [
        ([{"path": "spec.methods", "values": ["SFT"]}], "spec.matrix[0].path", "no such field"),
        ([{"path": "metadata.name", "values": ["a"]}], "spec.matrix[0].path", "no such field"),
        ([{"path": "spec.checkpoint.uri", "values": ["s3://abc/x"]}], "spec.matrix[0].path", "a prefix of its own"),
        ([{**SEEDS, "labels": ["a"]}], "spec.matrix[0].labels", "1 for 3 values"),
        ([{**SEEDS, "values": [1, "1"]}], "spec.matrix[0].values", "the same name"),
        ([{"path": "spec.objectives", "values": [[]]}], "spec.matrix[0].values", "no short names"),
        ([METHODS, METHODS], "spec.matrix[1].path", "spec.method varies in matrix[0] already"),
        ([{**SEEDS, "values": list(range(60))}, {**SEEDS, "path": "spec.trainer.nodes", "values": list(range(5))}],
         "spec.matrix", "at most 256"),
        ([{**METHODS, "labels": ["a" * 20, "b" * 20]}], "", "at most 40"),
    ],
)  # fmt: skip
def test_a_sweep_that_is_wrong_says_where(matrix: list[dict[str, Any]], path: str, words: str) -> None:
    with pytest.raises(JobError) as error:
        sweep(*matrix, name="a-name-of-some-length")
    problems = [problem for problem in error.value.problems if words in problem.message]
    assert [problem.path for problem in problems] == [path or "metadata.name"]
