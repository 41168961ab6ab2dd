"""Termination and progress records: never too long, never a secret, and readable whatever wrote them."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unimrg_api.progress import Progress
from unimrg_api.record import SIZE_LIMIT
from unimrg_api.redaction import REDACTED, clean
from unimrg_api.stages import STAGES
from unimrg_api.termination import TerminationRecord

LONG_TEXT = st.text(max_size=300).flatmap(lambda text: st.integers(1, 60).map(lambda n: text * n))
NUMBERS = st.dictionaries(st.text(max_size=90), st.floats(), max_size=90)
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
TERMINATIONS = st.builds(
    TerminationRecord,
    reason=LONG_TEXT,
    exit_code=WHOLE,
    rank=st.none() | WHOLE,
    step=st.none() | WHOLE,
    checkpoint_step=st.none() | st.integers(),
    mlflow_run_id=st.none() | LONG_TEXT,
    mlflow_url=st.none() | LONG_TEXT,
    scores=NUMBERS,
    message=LONG_TEXT,
)
REPORTS = st.builds(
    Progress,
    stage=st.sampled_from(list(STAGES)),
    step=WHOLE,
    total_steps=WHOLE,
    eta_seconds=st.none() | st.floats(),
    losses=NUMBERS,
    updated=st.floats(),
    message=LONG_TEXT,
)


@given(TERMINATIONS | REPORTS)
@example(TerminationRecord(message='"' * 9000, reason="\U0001f600" * 600, mlflow_url="\\" * 600))
@example(TerminationRecord(scores={f"{'é' * 60}{n}": 1 / 3 for n in range(90)}, message="x" * 4096))
def test_a_record_never_exceeds_the_limit_and_can_be_read_back(record: TerminationRecord | Progress) -> None:
    text = record.to_json()
    assert len(text.encode()) <= SIZE_LIMIT
    assert "\n" not in text
    again = type(record).parse(text.encode())
    assert again is not None
    for name in {"exit_code", "rank", "step", "stage"} & set(type(record).model_fields):
        assert getattr(again, name) == getattr(record, name)
    assert again.to_json() == type(record).model_validate_json(again.to_json(), strict=True).to_json()


@given(st.binary(max_size=6000))
@example(b"")
@example(b"[" * 4000)
@example(b'{"a":' * 700)
@example(b"\xff\xfe not text")
@example(b'{"exitCode": 1e999}')
@example(b"\x1b[31mred\x1b[0m\r\n")
def test_reading_a_termination_log_never_fails(content: bytes) -> None:
    record = TerminationRecord.parse(content)
    assert len(record.to_json().encode()) <= SIZE_LIMIT
    assert not any(ord(character) < 32 and character not in "\n\t" for character in record.message)


def test_a_log_that_is_no_record_becomes_the_message_of_one() -> None:
    assert TerminationRecord.parse(json.dumps({"exitCode": 0, "message": "x" * SIZE_LIMIT})).reason == "Unreadable"
    record = TerminationRecord.parse(b"Traceback: boom")
    assert (record.reason, record.exit_code, record.message) == ("Unreadable", 70, "Traceback: boom")
    assert TerminationRecord.parse(b" \n").reason == "Nothing"


def test_a_field_of_the_wrong_type_is_left_out_and_the_rest_is_kept() -> None:
    progress = Progress.parse(b'{"stage": "dance", "step": 3}')
    assert progress is not None and (progress.stage, progress.step) == ("check", 3)
    assert Progress.parse(b"[]") is None
    content = b'{"exitCode": 85, "step": "many", "rank": 2.5, "scores": {"a": 1, "b": "x", "c": true}, "new": {}}'
    record = TerminationRecord.parse(content)
    assert (record.exit_code, record.step, record.rank, record.scores) == (85, None, None, {"a": 1.0})


SECRETS = [
    ("AKIAIOSFODNN7EXAMPLE", "an access key AKIAIOSFODNN7EXAMPLE was refused"),
    ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "with wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY in it"),
    ("hunter2", "https://me:hunter2@mlflow.example/x"),
    ("hunter2", "password=hunter2"),
    ("hunter2", "{'MLFLOW_TRACKING_PASSWORD': 'hunter2'}"),
    ("hunter2", 'secret_key: "hunter2"'),
    ("hunter2", "accessToken=hunter2&x=1"),
    ("dXNlcjpwYXNz", "Authorization: Basic dXNlcjpwYXNz"),
    ("abcdefghijklmnop", "Bearer abcdefghijklmnop"),
    ("hf_abcdefghijklmnopqrstuv", "token hf_abcdefghijklmnopqrstuv expired"),
    ("eyJhbGciOi", "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("MIIEow", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"),
    ("deadbeef01", "https://b.s3.amazonaws.com/k?X-Amz-Signature=deadbeef01&X-Amz-Date=1"),
]


@pytest.mark.parametrize(("secret", "text"), SECRETS, ids=lambda value: value[:24])
def test_what_looks_like_a_key_is_in_no_field_of_a_record(secret: str, text: str) -> None:
    written = TerminationRecord(message=text, reason=text, mlflow_url=text, scores={text: 1.0}).to_json()
    once = TerminationRecord.parse(text.encode()).message
    assert secret not in written + once and REDACTED in written
    assert clean(once) == once


@pytest.mark.parametrize(
    "unit", ["x", "password", "password ", "://a", "eyJ-", "eyJabcdefgh.", "secret=", "\x1b[", "A1b/", "-----BEGIN "]
)
def test_a_megabyte_of_anything_is_cleaned_at_once(unit: str) -> None:
    started = time.perf_counter()
    clean(unit * (1_000_000 // len(unit)), 2048)
    assert time.perf_counter() - started < 2.0


def test_terminal_escapes_and_control_characters_are_taken_out() -> None:
    assert clean("\x1b[31mred\x1b[0m\x00\x07 \x1b]0;title\x07a\r\nb\u202e") == "red a\nb"
    assert clean("\ud800") == "?"


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, str(2**63), "1e999", "NaN"])
def test_a_number_that_nobody_can_hold_is_left_out(number: str) -> None:
    record = TerminationRecord.read(f'{{"scores":{{"a":{number},"b":1}},"step":{number},"message":"x"}}')
    assert record is not None
    assert (record.scores, record.step, record.message) == ({"b": 1}, TerminationRecord().step, "x")
    progress = Progress.parse(f'{{"losses":{{"a":{number}}},"step":{number},"etaSeconds":{number}}}'.encode())
    assert progress is not None
    assert (progress.losses, progress.step, progress.eta_seconds) == ({}, 0, None)


def test_a_number_that_nobody_can_hold_is_not_written_either() -> None:
    values = {"step": 10**400, "losses": {"a": 10**400, "b": 0.5, "c": math.nan}, "eta_seconds": math.inf}
    text = Progress.model_construct(**values).to_json()
    assert json.loads(text)["losses"] == {"b": 0.5}
    assert not {"step", "etaSeconds"} & set(json.loads(text))
