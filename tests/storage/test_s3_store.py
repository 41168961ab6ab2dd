"""What is particular to a store in a bucket: pieces, large objects, listings, and every way in which S3 can fail."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from tests.support.ports import free_port
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import StorageSpec
from unimrg_trainer.storage import open_store, s3
from unimrg_trainer.storage.base import AlreadyExists, StorageError
from unimrg_trainer.storage.s3 import S3Store


def failure(call: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as caught:
        call()
    assert caught.value.remedy
    return caught.value


# Pieces


@pytest.mark.parametrize(
    ("offset", "length", "ranges"),
    [(0, None, 4), (0, 10, 4), (1, 7, 3), (2, None, 3), (9, 5, 1), (10, 3, 1), (4, 3, 1)],
)
def test_an_object_is_read_in_pieces_that_fit_together(
    s3_place: Place, offset: int, length: int | None, ranges: int
) -> None:
    store, content = s3_place.store(part_bytes=3), b"0123456789"
    store.put("a", content)
    with s3_place.counted() as requests:
        assert store.get("a", offset, length) == content[offset:][:length]
    assert len(requests.ranges) == requests.methods["GET"] == ranges


def test_a_small_object_costs_one_request_each_way(s3_place: Place) -> None:
    store = s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", b"1")
        store.put("b", b"1", if_absent=True)
        store.get("a")
        store.size("a")
        store.delete("a")
        store.list()
    assert requests.methods == {"PUT": 2, "GET": 2, "HEAD": 1, "DELETE": 1}


def test_an_object_that_is_replaced_between_its_pieces_is_read_as_one_version(s3_place: Place) -> None:
    versions = {b"a" * 300_000, b"b" * 200_000}
    store = s3_place.store(part_bytes=50_000)
    store.put("a", min(versions))
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for version in sorted(versions):
                store.put("a", version)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {store.get("a") for _ in range(20)}
    finally:
        stop.set()
        writer.join()
    assert seen <= versions


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_object_travels_in_parts_and_comes_back_whole(s3_place: Place, tmp_path: Path, from_file: bool) -> None:
    content = random.Random(1).randbytes(s3.SINGLE_BYTES + 5)
    source = tmp_path / "large"
    source.write_bytes(content)
    store = s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", source if from_file else content)
    assert requests.methods == {"POST": 2, "PUT": 3}
    assert store.size("a") == len(content)
    assert store.get("a") == content
    assert store.get("a", s3.PART_BYTES - 2, 4) == content[s3.PART_BYTES - 2 :][:4]


def test_a_large_conditional_write_is_one_request(s3_place: Place) -> None:
    content, store = b"x" * (s3.SINGLE_BYTES + 1), s3_place.store()
    with s3_place.counted() as requests:
        store.put("a", content, if_absent=True)
    assert requests.methods == {"PUT": 1}
    with pytest.raises(AlreadyExists):
        store.put("a", content, if_absent=True)


def test_what_no_single_request_can_hold_is_not_written_conditionally(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "CONDITIONAL_BYTES", 4)
    store = s3_place.store()
    assert failure(lambda: store.put("a", b"12345", if_absent=True)).exit_code is ExitCode.CONFIGURATION
    assert store.list() == []


# Listings and keys


def test_a_listing_is_whole_beyond_one_page(s3_place: Place) -> None:
    store = s3_place.store()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"many/{number:04d}", b""), range(1005)))
    assert store.list("many/") == [(f"many/{number:04d}", 0) for number in range(1005)]


def test_a_prefix_does_not_show_what_only_begins_like_it(s3_place: Place) -> None:
    s3_place.store("run-2").put("a", b"2")
    assert s3_place.store("run").list() == []
    s3_place.store("run").put("b", b"1")
    assert s3_place.store("run").list() == [("b", 1)]
    assert s3_place.store("run/").uri == s3_place.store("run").uri == f"{s3_place.uri}/run"


def test_a_whole_bucket_is_a_store(s3_place: Place) -> None:
    bucket, _, prefix = s3_place.uri.removeprefix("s3://").partition("/")
    whole = S3Store(f"s3://{bucket}", s3_place.storage)
    whole.put(f"{prefix}/a", b"1")
    assert whole.list(prefix) == [(f"{prefix}/a", 1)]
    assert s3_place.store("").get("a") == b"1"


def test_empty_folders_of_a_console_are_no_objects(s3_place: Place, s3_server: S3Server) -> None:
    bucket, _, prefix = s3_place.uri.removeprefix("s3://").partition("/")
    for key in ("run/", "run/folder/"):
        s3_server.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"")
    s3_place.store().put("a", b"1")
    assert s3_place.store().list() == [("a", 1)]


@pytest.mark.parametrize("uri", ["s3://", "s3:///run", "s3://bucket/a//b", "s3://bucket/../b"])
def test_a_uri_that_names_no_place_is_refused(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri)
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_prefix_and_key_together_are_at_most_as_long_as_s3_takes(s3_place: Place) -> None:
    store = s3_place.store()
    assert failure_code(lambda: store.size("x" * 1020)) is ExitCode.CONFIGURATION


def failure_code(call: Callable[[], object]) -> ExitCode:
    with pytest.raises(StorageError) as caught:
        call()
    return caught.value.exit_code


# Connections that break


@pytest.mark.parametrize("silently", [False, True])
def test_a_reply_that_breaks_off_is_asked_for_again(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch, silently: bool
) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.5)
    content = bytes(range(256)) * 2000
    s3_place.store().put("a", content)
    store = s3_place.through(s3_gate, part_bytes=200_000)
    s3_gate.break_answers(3, after=100_000, silently=silently)
    assert store.get("a") == content
    assert s3_gate.broken == 3


def test_replies_that_always_break_off_are_an_outage_and_never_wrong_bytes(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BODY_ATTEMPTS", 3)
    s3_place.store().put("a", b"x" * 300_000)
    store = s3_place.through(s3_gate)
    s3_gate.break_answers(1000, after=100_000)
    error = failure(lambda: store.get("a"))
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert f"{s3_place.uri}/run/a" in error.message and s3_gate.uri in error.message
    s3_gate.break_answers(0, after=0)
    assert store.get("a") == b"x" * 300_000


@pytest.mark.parametrize("after", [0, 5, 15, 17, 40, 90, 150, 200, 250, 300, 350, 400, 450])
def test_wherever_a_reply_is_cut_the_answer_is_right_or_an_outage(
    s3_place: Place, s3_gate: TcpGate, after: int
) -> None:
    s3_place.store().put("a", b"0123456789" * 100)
    store = s3_place.through(s3_gate)
    answers: list[tuple[Callable[[], object], object]] = [
        (lambda: store.get("a"), b"0123456789" * 100),
        (lambda: store.size("a"), 1000),
        (lambda: store.list(), [("a", 1000)]),
    ]
    for call, answer in answers:
        s3_gate.break_answers(1, after=after)
        try:
            assert call() == answer
        except StorageError as error:
            assert error.exit_code is ExitCode.UNAVAILABLE, error


def test_a_conditional_write_whose_reply_is_lost_says_that_there_is_an_object(
    s3_place: Place, s3_gate: TcpGate
) -> None:
    store = s3_place.through(s3_gate)
    store.size("warm the connection")
    s3_gate.break_answers(1, after=30)  # behind "100 Continue", which asks for the content
    with pytest.raises(AlreadyExists):
        store.put("a", b"mine", if_absent=True)
    assert store.get("a") == b"mine"


def answering(status: int, code: str, times: int) -> Callable[..., Any]:
    """An event handler that answers the next requests itself."""
    left = [times]

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        if not left[0]:
            return None
        left[0] -= 1
        body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
        response = AWSResponse(request.url, status, {}, None)
        response._content = body
        return response

    return answer


def test_a_conditional_write_is_tried_again_while_another_is_under_way(s3_place: Place) -> None:
    store = s3_place.store()
    events = store.client.meta.events
    answer = answering(409, "ConditionalRequestConflict", times=2)
    events.register("before-send.s3.PutObject", answer)
    try:
        store.put("a", b"mine", if_absent=True)
    finally:
        events.unregister("before-send.s3.PutObject", answer)
    assert store.get("a") == b"mine"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (503, "SlowDown", ExitCode.UNAVAILABLE),
        (500, "InternalError", ExitCode.UNAVAILABLE),
        (429, "TooManyRequests", ExitCode.UNAVAILABLE),
        (409, "ConditionalRequestConflict", ExitCode.UNAVAILABLE),
        (400, "ExpiredToken", ExitCode.CREDENTIALS),
        (403, "AccessDenied", ExitCode.CREDENTIALS),
        (403, "RequestTimeTooSkewed", ExitCode.CREDENTIALS),
        (501, "NotImplemented", ExitCode.CONFIGURATION),
        (400, "AuthorizationHeaderMalformed", ExitCode.CONFIGURATION),
        (404, "NoSuchBucket", ExitCode.INPUT_MISSING),
    ],
)
def test_what_the_service_says_has_its_exit_code(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: ExitCode
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    store = s3_place.store()
    events = store.client.meta.events
    answer = answering(status, code, times=100)
    events.register("before-send.s3.PutObject", answer)
    try:
        error = failure(lambda: store.put("a", b"mine", if_absent=True))
    finally:
        events.unregister("before-send.s3.PutObject", answer)
    assert error.exit_code is expected
    assert not isinstance(error, AlreadyExists)
    assert f"{s3_place.uri}/run/a" in error.message and str(s3_place.storage.endpoint) in error.message


# Refusals of the real server


def each_call(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.put("a", b"1"),
        lambda: store.put("a", b"1", if_absent=True),
        lambda: store.get("a"),
        lambda: store.size("a"),
        lambda: store.list(),
        lambda: store.delete("a"),
    ]


@pytest.mark.parametrize("key", ["tests-writer", "tests-nobody"])
def test_keys_that_are_refused_are_told_without_their_values(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    secret = "Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyMTIz+/AB"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    for call in each_call(s3_place.store()):
        error = failure(call)
        assert error.exit_code is ExitCode.CREDENTIALS
        assert s3_place.uri in error.message and str(s3_place.storage.endpoint) in error.message
        assert secret not in str(error) and secret not in repr(error.__cause__)


def test_a_reader_reads_and_writes_nothing(
    s3_place: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_place.store().put("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader_secret_key)
    store = s3_place.store()
    assert (store.get("a"), store.size("a"), store.list()) == (b"1", 1, [("a", 1)])
    for call in (lambda: store.put("a", b"2"), lambda: store.delete("a")):
        assert failure(call).exit_code is ExitCode.CREDENTIALS


def test_without_keys_the_remedy_says_where_they_go(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = failure(lambda: s3_place.store().get("a"))
    assert error.exit_code is ExitCode.CREDENTIALS
    assert "AWS_ACCESS_KEY_ID" in error.remedy and "spec.storage.credentials" in error.remedy


def test_a_missing_bucket_is_a_missing_input_and_named(s3_place: Place) -> None:
    store = S3Store("s3://nobody-made-this/run", s3_place.storage)
    for call in (lambda: store.get("a"), lambda: store.list()):
        error = failure(call)
        assert error.exit_code is ExitCode.INPUT_MISSING
        assert type(error) is StorageError, "a missing object is something else"
        assert "nobody-made-this" in error.message and "bucket" in error.message


def test_an_endpoint_that_refuses_connections_is_told_in_time(s3_place: Place) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = S3Store(f"{s3_place.uri}/run", StorageSpec(endpoint=endpoint))
    started = time.monotonic()
    error = failure(lambda: store.get("a"))
    assert time.monotonic() - started < 30
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert endpoint in error.message and "refused" in error.message


def test_an_endpoint_that_never_answers_is_an_outage(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.2)
    s3_gate.swallow()
    assert failure(lambda: s3_place.through(s3_gate).get("a")).exit_code is ExitCode.UNAVAILABLE


def test_half_a_pair_of_keys_is_a_matter_of_credentials(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = failure(lambda: s3_place.store().get("a"))
    assert error.exit_code is ExitCode.CREDENTIALS
    assert "AWS_SECRET_ACCESS_KEY" in error.message


def test_settings_that_make_no_client_are_told(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this-profile")
    error = failure(lambda: s3_place.store().get("a"))
    assert error.exit_code is ExitCode.CONFIGURATION
    assert "nobody-has-this-profile" in error.message


# Settings


def test_a_job_in_folders_does_not_pay_for_a_client() -> None:
    look = (
        "import sys; from unimrg_trainer.launch import local; from unimrg_trainer.storage import open_store;"
        "open_store('file:///nowhere'); sys.exit('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0


def test_what_the_job_leaves_open_comes_from_the_environment(
    s3_place: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_place.store().put("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-central-7")
    store = open_store(f"{s3_place.uri}/run")
    assert isinstance(store, S3Store)
    assert store.get("a") == b"1"
    assert store.client.meta.region_name == "eu-central-7"


def test_what_the_job_says_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-central-7")
    spec = StorageSpec(endpoint="http://s3.here/", region="there", addressing="Virtual", checksums="WhenRequired")
    client = s3.connect(spec)
    assert client.meta.endpoint_url == "http://s3.here/"
    assert client.meta.config.region_name == "there"
    assert client.meta.config.s3["addressing_style"] == "virtual"
    assert client.meta.config.request_checksum_calculation == "when_required"
    assert client.meta.config.response_checksum_validation == "when_required"


def test_a_process_has_one_client_for_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = StorageSpec(endpoint="http://127.0.0.1:3")
    assert s3.connect(endpoint) is s3.connect(StorageSpec(endpoint="http://127.0.0.1:3"))
    assert s3.connect(endpoint) is not s3.connect(StorageSpec(endpoint="http://127.0.0.1:4"))
    first = s3.connect(endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another's")
    assert s3.connect(endpoint) is not first
    first = s3.connect(endpoint)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert s3.connect(endpoint) is not first, "a forked process shares sockets"


def test_checksums_of_either_kind_are_understood(s3_place: Place) -> None:
    for checksums in ("WhenSupported", "WhenRequired"):
        storage = s3_place.storage.model_copy(update={"checksums": checksums})
        store = S3Store(f"{s3_place.uri}/{checksums}", storage)
        store.put("a", b"1", if_absent=True)
        assert store.get("a") == b"1"
