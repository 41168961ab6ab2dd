"""Every way in which S3 can fail: connections that break, refusals, services that lack something."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_stand_in import Answer, serving
from tests.support.certificates import LOOPBACK, write_certificate
from tests.support.s3_answers import answering, failure, handled, without_header
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.storage import s3, s3_client
from unimrg_trainer.storage.base import AlreadyExists, NotFound, StorageError
from unimrg_trainer.storage.s3 import S3Store

# Connections that break


@pytest.mark.parametrize("silently", [False, True])
def test_a_reply_that_breaks_off_is_asked_for_again(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch, silently: bool
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.5)
    content = bytes(range(256)) * 2000
    s3_place.store().put("a", content)
    store = s3_place.through(s3_gate, part_bytes=200_000)
    s3_gate.break_answers(3, after=100_000, silently=silently)
    assert store.get("a") == content
    assert s3_gate.broken == 3


def test_replies_that_always_break_off_are_an_outage(
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


@pytest.mark.parametrize("after", [0, 15, 40, 150, 250, 350, 450])
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


def test_a_conditional_write_whose_reply_is_lost_finds_an_object(s3_place: Place, s3_gate: TcpGate) -> None:
    store = s3_place.through(s3_gate)
    store.size("warm the connection")
    s3_gate.break_answers(1, after=30)  # behind "100 Continue", which asks for the content
    with pytest.raises(AlreadyExists):
        store.put("a", b"mine", if_absent=True)
    assert store.get("a") == b"mine"


def test_a_conditional_write_is_repeated_while_another_is_under_way(s3_place: Place) -> None:
    store = s3_place.store()
    with answering(s3_place, "PutObject", 409, "ConditionalRequestConflict", times=2) as conflicts:
        store.put("a", b"mine", if_absent=True)
    assert len(conflicts) == 2
    assert store.get("a") == b"mine"


@pytest.mark.parametrize("completed", [True, False])
def test_an_upload_whose_last_reply_is_lost_is_made_again(
    s3_place: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, completed: bool
) -> None:
    """The repeated request finds no upload: it was completed by the first one, or the service gave it up."""
    monkeypatch.setattr(s3, "SINGLE_BYTES", 1 << 20)
    store, client, begun = s3_place.store(part_bytes=5 << 20), s3_server.client(), list[str]()
    content = random.Random(1).randbytes(6 << 20)

    def end_it(params: dict[str, Any], **_: Any) -> None:
        if len(begun) == 1 and completed:
            client.complete_multipart_upload(**params)
        elif len(begun) == 1:
            client.abort_multipart_upload(**{name: params[name] for name in ("Bucket", "Key", "UploadId")})

    with (
        handled(s3_place, "before-call.s3.CreateMultipartUpload", lambda **_: begun.append("upload")),
        handled(s3_place, "provide-client-params.s3.CompleteMultipartUpload", end_it),
        answering(s3_place, "CompleteMultipartUpload", 404, "NoSuchUpload", times=1) as lost,
    ):
        store.put("a", content)
    assert (len(lost), len(begun)) == (1, 2)
    assert store.get("a") == content


def test_an_upload_that_is_always_lost_is_an_outage(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "SINGLE_BYTES", 10)
    monkeypatch.setattr(s3, "BODY_ATTEMPTS", 2)
    with answering(s3_place, "CompleteMultipartUpload", 404, "NoSuchUpload") as lost:
        error = failure(lambda: s3_place.store().put("a", b"x" * 11))
    assert len(lost) == 2
    assert error.exit_code is ExitCode.UNAVAILABLE and not isinstance(error, NotFound)


CHECKSUMS = "spec.storage.checksums: WhenRequired"


@pytest.mark.parametrize(
    ("status", "code", "expected", "may_be_checksums"),
    [
        (503, "SlowDown", ExitCode.UNAVAILABLE, False),
        (500, "InternalError", ExitCode.UNAVAILABLE, True),
        (409, "ConditionalRequestConflict", ExitCode.UNAVAILABLE, False),
        (400, "InvalidToken", ExitCode.CREDENTIALS, False),
        (403, "AccessDenied", ExitCode.CREDENTIALS, True),
        (403, "RequestTimeTooSkewed", ExitCode.CREDENTIALS, False),
        (501, "NotImplemented", ExitCode.CONFIGURATION, True),
        (400, "InvalidArgument", ExitCode.CONFIGURATION, True),
        (400, "AuthorizationHeaderMalformed", ExitCode.CONFIGURATION, False),
        (404, "NoSuchBucket", ExitCode.INPUT_MISSING, False),
        (404, "NoSuchKey", ExitCode.UNAVAILABLE, True),
        (400, "BadDigest", ExitCode.UNAVAILABLE, True),
        (400, "XAmzContentSHA256Mismatch", ExitCode.CONFIGURATION, True),
    ],
)
def test_a_refused_write_has_the_exit_code_of_its_cause(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: ExitCode, may_be_checksums: bool
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with answering(s3_place, "PutObject", status, code):
        error = failure(lambda: s3_place.store().put("a", b"mine", if_absent=True))
    assert error.exit_code is expected
    assert not isinstance(error, AlreadyExists | NotFound)
    assert f"{s3_place.uri}/run/a" in error.message and str(s3_place.storage.endpoint) in error.message
    assert (CHECKSUMS in error.remedy) is may_be_checksums


def test_checksums_are_suspected_only_where_they_are_added(s3_place: Place) -> None:
    without = Place(s3_place.uri, s3_place.storage.model_copy(update={"checksums": "WhenRequired"}))
    for place in (s3_place, without):
        with answering(place, "GetObject", 400, "InvalidArgument"):
            error = failure(lambda place=place: place.store().size("a"))  # type: ignore[misc]
        assert (CHECKSUMS in error.remedy) is (place is s3_place)
    with answering(without, "PutObject", 400, "XAmzContentSHA256Mismatch"):
        assert failure(lambda: without.store().put("a", b"1")).exit_code is ExitCode.UNAVAILABLE, "damaged on its way"


def test_a_read_that_is_answered_with_404_alone_finds_no_object(s3_place: Place) -> None:
    with answering(s3_place, "GetObject", 404), pytest.raises(NotFound):
        s3_place.store().get("a")
    with answering(s3_place, "GetObject", 404, "NoSuchUpload"):
        assert not isinstance(failure(lambda: s3_place.store().get("a")), NotFound)


# Services that lack something


def test_a_service_that_ignores_ranges_is_told_at_once(s3_place: Place) -> None:
    store = s3_place.store()
    store.put("a", b"0123456789")
    store.put("empty", b"")
    with without_header(s3_place, "GetObject", "Range"), s3_place.counted() as requests:
        error = failure(lambda: store.get("a", 2, 3))
        assert store.get("empty") == b""
    assert error.exit_code is ExitCode.CONFIGURATION
    assert f"{s3_place.uri}/run/a" in error.message and "range" in error.message
    assert requests.methods == {"GET": 2}


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


def test_a_missing_bucket_is_a_missing_input_and_named(s3_place: Place) -> None:
    store = S3Store("s3://nobody-made-this/run", s3_place.storage)
    for call in (lambda: store.get("a"), lambda: store.list(), lambda: store.size("a")):
        error = failure(call)
        assert error.exit_code is ExitCode.INPUT_MISSING
        assert type(error) is StorageError, "a missing object is something else"
        assert "nobody-made-this" in error.message and "bucket" in error.message


def test_an_endpoint_that_refuses_or_never_answers_is_an_outage(
    s3_place: Place, s3_gate: TcpGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.2)
    s3_gate.swallow()
    assert failure(lambda: s3_place.through(s3_gate).get("a")).exit_code is ExitCode.UNAVAILABLE
    s3_gate.close()
    started = time.monotonic()
    error = failure(lambda: s3_place.through(s3_gate).get("a"))
    assert time.monotonic() - started < 30
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert s3_gate.uri in error.message and "refused" in error.message


@pytest.fixture(params=["http", "https"])
def web_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """(scheme, port) of a server on loopback that is no S3; over TLS its certificate is signed by itself."""
    context = None
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_certificate(tmp_path, LOOPBACK))
    with serving(lambda _: Answer(body="page"), context) as port:
        yield request.param, port


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_certificates_and_schemes_are_named(
    s3_place: Place, web_server: tuple[str, int], scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoken, port = web_server
    said, expected = {
        ("http", "http"): ("whole object", ExitCode.CONFIGURATION),
        ("http", "https"): ("does not speak TLS", ExitCode.CONFIGURATION),
        ("https", "http"): ("http:// or https://", ExitCode.UNAVAILABLE),
        ("https", "https"): ("certificate is not trusted", ExitCode.CONFIGURATION),
    }[spoken, scheme]
    place = Place(s3_place.uri, StorageSpec(endpoint=f"{scheme}://127.0.0.1:{port}", addressing="Path"))
    error = failure(lambda: place.store().get("a"))
    assert error.exit_code is expected and said in str(error)
    if spoken == scheme == "https":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere"))
        error = failure(lambda: place.store().get("a"))
        assert error.exit_code is ExitCode.CONFIGURATION and "AWS_CA_BUNDLE" in str(error)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "tls.crt"))
        error = failure(lambda: place.store().get("a"))
        assert "whole object" in error.message, "with its own certificate it is trusted"


@pytest.mark.parametrize(
    ("changes", "expected", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, ExitCode.CREDENTIALS, "spec.storage.credentials"),
        ({"AWS_SECRET_ACCESS_KEY": None}, ExitCode.CREDENTIALS, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nobody-has-this-profile"}, ExitCode.CONFIGURATION, "nobody-has-this-profile"),
        ({"AWS_ACCESS_KEY_ID": "as-echo-leaves-it\n"}, ExitCode.CREDENTIALS, "AWS_ACCESS_KEY_ID ends in white space"),
        ({"AWS_ENDPOINT_URL": "\nas-echo-leaves-it"}, ExitCode.CREDENTIALS, "AWS_ENDPOINT_URL begins with white space"),
    ],
)
def test_what_the_environment_lacks_or_has_wrong_is_named(
    s3_place: Place,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, str | None],
    expected: ExitCode,
    said: str,
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    error = failure(lambda: s3_place.store().get("a"))
    assert error.exit_code is expected
    assert said in str(error) and "as-echo" not in str(error)


def test_a_service_that_tells_no_times_is_read_but_cannot_tell_ages(s3_place: Place) -> None:
    def strip(parsed: dict[str, Any], **_: Any) -> None:
        del parsed["ResponseMetadata"]["HTTPHeaders"]["date"], parsed["LastModified"]

    store = s3_place.store()
    store.put("a", b"content")
    assert store.age("a") is not None
    with handled(s3_place, "after-call.s3.GetObject", strip):
        assert store.get("a") == b"content" and store.size("a") == 7
        error = failure(lambda: store.age("a"))
    assert error.exit_code is ExitCode.CONFIGURATION and f"{store.uri}/a" in error.message
