"""Whatever is given as a job, the answer is a job or problems with words: never another exception."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.bad_jobs import places
from tests.support.good_jobs import GOOD_JOB
from unimrg_api.errors import JobError
from unimrg_api.load import dump_job, parse_job
from unimrg_api.yaml_source import read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["1", "Tiny"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def good() -> Any:
    return read_yaml(GOOD_JOB.encode()).value


def check(value: Any) -> None:
    try:
        job = parse_job(value)
    except JobError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message
            assert problem.remedy
    else:
        assert parse_job(dump_job(job)) == job


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=4))
def test_a_job_with_anything_anywhere_is_read_or_explained(changes: list[tuple[int, Any]]) -> None:
    value = good()
    for index, new in changes:
        found = places(value)
        if not found:
            break
        container, key = found[index % len(found)]
        container[key] = new
        check(new)
    check(value)


@settings(max_examples=150)
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@example(b"? [a]\n: b")
@example(b"!!python/object:os.system x")
@example(b"a: !!int x")
@example(b"a: !!binary |\n  x")
@example(b"&a [*a]")
@example(b"a: 0b2\nb: 1:99\nc: 2001-99-99")
@example(b"%YAML 9.9\n---\na: 1")
@example(b"a: " + b"9" * 5000)
def test_any_bytes_are_read_or_explained(data: bytes) -> None:
    check(read_yaml(data).value)
