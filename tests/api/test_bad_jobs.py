"""Every bad job is refused at its path, as a file and as an object; and what is no job is refused too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bad_jobs import BAD_JOBS, FOR_A_CLUSTER, BadJob
from tests.support.good_jobs import GOOD_JOB
from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import load_job, parse_job
from unimrg_api.locality import cluster_problems
from unimrg_api.yaml_source import read_yaml

WARMUP_AND_STOP = ["spec.training.schedule.warmupSteps", "spec.training.stopStep"]


def problems_of(text: str | bytes, folder: Path) -> list[Problem]:
    file = folder / "job.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(JobError) as caught:
        load_job(file)
    assert caught.value.source == str(file)
    return caught.value.problems


def only_problem(text: str | bytes, folder: Path) -> Problem:
    problems = problems_of(text, folder)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


@pytest.mark.parametrize("case", BAD_JOBS, ids=lambda case: case.name)
def test_a_bad_job_is_refused_once_at_its_path(case: BadJob, tmp_path: Path) -> None:
    problem = only_problem(case.text, tmp_path)
    assert (problem.path, problem.exit_code) == (case.path, ExitCode.CONFIGURATION)
    assert problem.message and problem.remedy
    assert problem.line is not None and problem.column is not None
    assert "hunter2" not in str(problem), "a password is shown"
    if case.server_sees:  # then the operator reads the same from the API server
        with pytest.raises(JobError) as caught:
            parse_job(read_yaml(case.text.encode()).value)
        assert [problem.path for problem in caught.value.problems] == [case.path]


@pytest.mark.parametrize("case", FOR_A_CLUSTER, ids=lambda case: case.name)
def test_what_only_a_cluster_refuses_is_no_problem_here(case: BadJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(case.text)
    (problem,) = cluster_problems(load_job(tmp_path / "job.yaml"))
    assert problem.path == case.path
    assert problem.message and problem.remedy


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("microBatchRows:", "micro_batch_rows:", "did you mean microBatchRows?"),
        ("nodes: 1", "node: 1", "did you mean nodes?"),
        ("  method: UniMRG", "  learningRate: 1", "spec.training.optimizer.learningRate?"),
        ("harmon:", "harmony:", "did you mean harmon?"),
        ("name: Depth", "name: depht", "did you mean Depth?"),
        ("variant: Tiny", "variant: 0.5", "did you mean 0.5B?"),
        ('weight: "0.5"', "weight: 0.5", 'write weight: "0.5"'),
        ('learningRate: "1e-3"', "learningRate: 1e-3", 'write learningRate: "1e-3"'),
        ("stopStep: 40", 'stopStep: "40"', "write stopStep: 40"),
        ("seed: 42", "seed: 42.0", "write seed: 42"),
        ("uri: file://run", "uri: s3:/bucket/x", "s3://bucket/x"),
        ("uri: file://run", "uri: /runs/x", "uri: file:///runs/x"),
        ("[file://data]", "file://data", "write shards: [file://data]"),
        ("name: good", "name: My Job", "name: my-job"),
        ("cohortRows: 8", "cohortRows: 5", "15 or 20"),
        ("warmupSteps: 5", "warmupSteps: 51", "at most totalSteps"),
        ("precision: FP32", "precision: fp16", "FP16 is not supported: use BF16"),
        ('spikeThreshold: "6"', 'spikeThreshold: "0"', '"6" is usual. Absent: none'),
        ('learningRate: "1e-3"', 'learningRate: "0"', 'write e.g. learningRate: "1e-5"'),
        ("profileStep: 4", "profileStep: 40", "use at most 38"),
        ("experiment: tests", 'uri: "https://me:hunter2@mlflow"', "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_the_remedy_says_what_to_write_instead(old: str, new: str, remedy: str, tmp_path: Path) -> None:
    assert remedy in only_problem(GOOD_JOB.replace(old, new), tmp_path).remedy


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ("rowsPerObjective: 16", "rowsPerObjective: -16", 13, 31),  # at the value
        ("microBatchRows:", "microBatchRow:", 13, 50),  # at the name
        ('weight: "0.5"', "weight: 0.5", 11, 29),  # within a list
        ("variant: Tiny, ", "", 7, 5),  # at the name of what the field is missing in
        ("seed: 42", "seed: 052", 22, 11),  # at the value, where two readers differ
    ],
)
def test_a_problem_has_the_place_of_its_value_or_name(
    old: str, new: str, line: int, column: int, tmp_path: Path
) -> None:
    problem = only_problem(GOOD_JOB.replace(old, new), tmp_path)
    assert (problem.line, problem.column) == (line, column)


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        # stopStep 40 is right by itself, and the rule about cohorts says nothing about a batch wrong in itself
        (
            {
                "rowsPerObjective: 16": "rowsPerObjective: -16",
                '"1e-3"': "1e-3",
                "warmupSteps: 5": "warmupSteps: 51",
                "graceSeconds: 60": "graceSeconds: 5",
            },
            [
                "spec.training.batch.rowsPerObjective",
                "spec.training.optimizer.learningRate",
                "spec.training.schedule.warmupSteps",
                "spec.checkpoint.graceSeconds",
            ],
        ),
        ({"nodes: 1": "nodes: 0", 'weight: "0.5"': 'weight: "0"'}, ["spec.objectives", "spec.trainer.nodes"]),
        (
            {'weight: "1"': "weight: 1", "name: Depth": "name: Height"},
            ["spec.objectives[0].weight", "spec.objectives[1].name"],
        ),
        ({"seed: 42": "seed: 052", "nodes: 1": "nodes: 0"}, ["spec.training.seed", "spec.trainer.nodes"]),
        # a warm-up of 25 steps by default, and a stop beyond the schedule
        ({"warmupSteps: 5, totalSteps: 50": "totalSteps: 20"}, WARMUP_AND_STOP),
        ({"warmupSteps: 5": "warmupSteps: 51", "stopStep: 40": "stopStep: 51"}, WARMUP_AND_STOP),
        ({GOOD_JOB[GOOD_JOB.index("  data:") : GOOD_JOB.index("  checkpoint:")]: ""}, ["spec.data.shards"]),
    ],
)
def test_all_problems_come_at_once_in_order(changes: dict[str, str], paths: list[str], tmp_path: Path) -> None:
    text = GOOD_JOB
    for old, new in changes.items():
        text = text.replace(old, new)
    assert [problem.path for problem in problems_of(text, tmp_path)] == paths


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"# only a comment\n", 1),
        (b"---\n...\n", 1),
        (b"- a\n- b\n", 1),
        (b"hello\n", 1),
        (b"a: [1, 2\nb: 3\n", 2),
        (b"a:\n\tb: 1\n", 2),
        (b"a: *nowhere\n", 1),
        (b"\x00\x01\x02", None),
        (b"a: \xff\xfe\n", 1),
        (b"a: 1\n---\nb: 2\n", 3),
        (b"a: " + b"[" * 3000 + b"]" * 3000, None),
        (b"x: " + b"y" * 2_000_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_yaml_job_is_refused_as_a_whole(content: bytes, line: int | None, tmp_path: Path) -> None:
    problem = only_problem(content, tmp_path)
    assert (problem.path, problem.line) == ("", line)
    assert problem.message and problem.remedy


def test_aliases_that_multiply_are_refused_and_not_followed(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "too many values" in problems_of("\n".join(lines), tmp_path)[0].message


def test_aliases_and_quoted_texts_stand_for_their_values(tmp_path: Path) -> None:
    text = GOOD_JOB.replace("stopStep: 40", "stopStep: &steps 40").replace("everySteps: 10", "everySteps: *steps")
    labels = {"on": "yes", "1": "052", "2026-01-02": "1e5", "a": "0.5B", "b": "1e5x", "c": "2026-01"}
    quoted = ", ".join(f'"{key}": "{value}"' for key, value in labels.items())
    (tmp_path / "job.yaml").write_text(text.replace("  name: good", f"  name: good\n  labels: {{{quoted}, d: 1x}}"))
    job = load_job(tmp_path / "job.yaml")
    assert job.spec.checkpoint.every_steps == 40
    assert job.metadata.labels == {**labels, "d": "1x"}


def test_problems_of_two_kinds_count_as_configuration() -> None:
    missing = Problem("a", "", "gone", exit_code=ExitCode.INPUT_MISSING)
    assert JobError([missing]).exit_code is ExitCode.INPUT_MISSING
    assert JobError([missing, Problem("b", "", "wrong")]).exit_code is ExitCode.CONFIGURATION
