"""Every bad job is refused with its path, place, words and exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bad_jobs import BAD_JOBS, FOR_A_CLUSTER, GOOD_CLUSTER_JOB, GOOD_JOB, BadJob
from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.load import dump_job, load_job, parse_job
from unimrg_api.locality import cluster_problems


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


@pytest.mark.parametrize("text", [GOOD_JOB, GOOD_CLUSTER_JOB])
def test_a_good_job_is_good(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml").metadata.name.startswith("good")


@pytest.mark.parametrize("case", BAD_JOBS, ids=lambda case: case.name)
def test_a_bad_job_is_refused_once_with_path_place_and_words(case: BadJob, tmp_path: Path) -> None:
    problem = only_problem(case.text, tmp_path)
    assert problem.path == case.path
    assert problem.exit_code == case.exit_code
    said = f"{problem.message}; {problem.remedy}"
    for word in case.words:
        assert word in said
    assert problem.remedy
    assert problem.line is not None
    assert problem.column is not None


@pytest.mark.parametrize("case", FOR_A_CLUSTER, ids=lambda case: case.name)
def test_what_only_a_cluster_refuses_is_one_problem_there_and_none_here(case: BadJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(case.text)
    (problem,) = cluster_problems(load_job(tmp_path / "job.yaml"))
    assert problem.path == case.path
    for word in case.words:
        assert word in f"{problem.message}; {problem.remedy}"
    assert problem.remedy


@pytest.mark.parametrize("name", ["password in an address", "keys in an endpoint"])
def test_a_password_is_not_repeated_in_the_message(name: str, tmp_path: Path) -> None:
    case = next(case for case in BAD_JOBS if case.name == name)
    assert "hunter2" not in str(only_problem(case.text, tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ("rowsPerObjective: 16", "rowsPerObjective: -16", 13, 31),  # at the value
        ("microBatchRows:", "microBatchRow:", 13, 50),  # at the name
        ('weight: "0.5"', "weight: 0.5", 11, 29),  # within a list
        ("variant: Tiny, ", "", 7, 5),  # at the name of what the field is missing in
    ],
)
def test_a_problem_has_the_place_of_its_value_or_name(
    old: str, new: str, line: int, column: int, tmp_path: Path
) -> None:
    problem = only_problem(GOOD_JOB.replace(old, new), tmp_path)
    assert (problem.line, problem.column) == (line, column)


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    independent = [
        case
        for case in BAD_JOBS
        if case.name
        in ("null at a required field", "negative batch", "bare rate", "warm-up too long", "short grace", "one slash")
    ]
    text = GOOD_JOB
    for case in independent:
        assert case.old in text
        text = text.replace(case.old, case.new)
    problems = problems_of(text, tmp_path)
    # stopStep 40 is right by itself, and the rule about cohorts says nothing about a batch that is wrong in itself
    assert sorted(problem.path for problem in problems) == sorted(case.path for case in independent)
    assert [problem.line for problem in problems] == sorted(problem.line or 0 for problem in problems)


def test_a_rule_is_reported_beside_an_error_in_another_field(tmp_path: Path) -> None:
    text = GOOD_JOB.replace("nodes: 1", "nodes: 0").replace('weight: "0.5"', 'weight: "0"')
    assert [problem.path for problem in problems_of(text, tmp_path)] == ["spec.objectives", "spec.trainer.nodes"]


def test_two_wrong_entries_of_a_list_are_both_reported(tmp_path: Path) -> None:
    text = GOOD_JOB.replace('weight: "1"', "weight: 1").replace("name: Depth", "name: Height")
    paths = [problem.path for problem in problems_of(text, tmp_path)]
    assert paths == ["spec.objectives[0].weight", "spec.objectives[1].name"]


def test_a_missing_block_is_one_problem_not_one_for_each_field_in_it(tmp_path: Path) -> None:
    start = GOOD_JOB.index("  data:")
    text = GOOD_JOB[:start] + GOOD_JOB[GOOD_JOB.index("  checkpoint:") :]
    problem = only_problem(text, tmp_path)
    assert problem.path == "spec.data"
    assert "shards" in problem.remedy


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        (b"", "empty", 1),
        (b"# only a comment\n", "empty", 1),
        (b"---\n...\n", "empty", 1),
        (b"- a\n- b\n", "this is a list", 1),
        (b"hello\n", "single value", 1),
        (b"a: [1, 2\nb: 3\n", "not YAML", 2),
        (b"a:\n\tb: 1\n", "not YAML", 2),
        (b"a: *nowhere\n", "not YAML", 1),
        (b"\x00\x01\x02", "not YAML", None),
        (b"a: \xff\xfe\n", "not UTF-8", 1),
        (b"a: 1\n---\nb: 2\n", "2 documents", 3),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "nested too deeply", None),
        (b"x: " + b"y" * 2_000_000, "too large", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_yaml_job_is_refused_in_words(content: bytes, words: str, line: int | None, tmp_path: Path) -> None:
    problem = only_problem(content, tmp_path)
    assert words in problem.message
    assert problem.line == line
    assert problem.remedy


def test_aliases_that_multiply_are_refused_and_not_followed(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    problems = problems_of("\n".join(lines), tmp_path)
    assert "too many values" in problems[0].message


def test_an_alias_stands_for_its_value(tmp_path: Path) -> None:
    text = GOOD_JOB.replace("stopStep: 40", "stopStep: &steps 40").replace("everySteps: 10", "everySteps: *steps")
    (tmp_path / "job.yaml").write_text(text)
    assert load_job(tmp_path / "job.yaml").spec.checkpoint.every_steps == 40


@pytest.mark.parametrize(("name", "words"), [("nowhere.yaml", "no such file"), (".", "this is a folder")])
def test_a_file_that_is_not_there_is_a_missing_input(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=words) as caught:
        load_job(tmp_path / name)
    assert caught.value.exit_code is ExitCode.INPUT_MISSING


def test_problems_of_two_kinds_count_as_configuration() -> None:
    missing = Problem("a", "", "gone", exit_code=ExitCode.INPUT_MISSING)
    assert JobError([missing]).exit_code is ExitCode.INPUT_MISSING
    assert JobError([missing, Problem("b", "", "wrong")]).exit_code is ExitCode.CONFIGURATION


@pytest.mark.parametrize("value", [None, [], "job", 3, {}])
def test_plain_values_that_are_no_job_are_refused(value: object) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(value)
    assert all(problem.line is None for problem in caught.value.problems)


def test_what_the_api_server_sees_is_refused_without_a_file_too(tmp_path: Path) -> None:
    from unimrg_api.yaml_source import read_yaml

    for case in BAD_JOBS:
        if case.server_sees:
            with pytest.raises(JobError) as caught:
                parse_job(read_yaml(case.text.encode()).value)
            assert [problem.path for problem in caught.value.problems] == [case.path]


def test_a_job_survives_dumping_and_parsing(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD_JOB)
    job = load_job(tmp_path / "job.yaml")
    dumped = dump_job(job)
    assert parse_job(dumped) == job
    assert dumped["spec"]["training"]["optimizer"]["beta2"] == "0.95"  # defaults are written out
    assert "image" not in dumped["spec"]
