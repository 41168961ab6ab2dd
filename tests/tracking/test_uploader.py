"""The uploader's thread: what it says of a server's answers, and when it ends."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.list_server import SETTINGS, ListServer, spool_with
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, UnavailableError, translate
from unimrg_trainer.tracking.uploader import Uploader


def test_what_only_a_person_can_mend_ends_the_waiting_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool_with(tmp_path, steps=3)
    server = ListServer()
    server.failure = ActionRequiredError("401", "check the password", ExitCode.CREDENTIALS)
    uploader = Uploader(tmp_path, SETTINGS, remote=server, first_wait=0.01)
    uploader.start()
    assert server.entered.wait(10)
    started = time.monotonic()

    report = uploader.stop(30)

    assert time.monotonic() - started < 10
    assert (report.remaining, report.exit_code) == (3, ExitCode.CREDENTIALS)
    assert "401; check the password" in report.problem
    assert json.loads((tmp_path / "mlflow.json").read_text())["problem"] == report.problem
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_problem_stays_said_although_connecting_works(tmp_path: Path) -> None:
    """A server that is read, but not written: the run is found in each pass, and its status is refused."""
    spool_with(tmp_path, steps=1)
    server, said = ListServer(), list[str]()

    def failures() -> Iterator[Exception | None]:
        for cause in ("full", "full", "full", "read-only at 0x7f01", "read-only at 0x7f02"):
            said.append(json.loads((tmp_path / "mlflow.json").read_bytes())["problem"])
            yield UnavailableError(f"the database is {cause}")
        said.append(json.loads((tmp_path / "mlflow.json").read_bytes())["problem"])
        yield from itertools.repeat(None)

    server.status_failures = failures()
    (tmp_path / "mlflow.json").write_text('{"problem": "of an earlier attempt"}')
    uploader = Uploader(tmp_path, SETTINGS, remote=server, first_wait=0.001, poll_seconds=0.001)
    uploader.start()
    report = uploader.stop(timeout=30)

    full = "MLflow at http://server cannot be reached: the database is full"
    read_only = full.replace("full", "read-only")
    assert said == ["of an earlier attempt", full, full, full, read_only, read_only]
    assert (report.problem, report.exit_code) == ("", ExitCode.OK)
    assert json.loads((tmp_path / "mlflow.json").read_bytes())["problem"] == ""


def test_an_unexpected_error_does_not_end_the_upload(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=3)
    server = ListServer()
    server.failure = KeyError("a fault of ours")
    uploader = Uploader(tmp_path, SETTINGS, remote=server, first_wait=0.01)
    uploader.start()
    assert server.entered.wait(10)
    server.failure = None

    assert uploader.stop(10).remaining == 0


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ("failed with error code 403 != 200: 'Invalid Host header'", ActionRequiredError, "--allowed-hosts"),
        ("failed with error code 401 != 200", ActionRequiredError, "MLFLOW_TRACKING_PASSWORD"),
        ("SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", ActionRequiredError, "SERVER_CERT_PATH"),
        ("SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number')", ActionRequiredError, "http://"),
        ("failed with error code 422 != 200", RefusedError, "422"),
        ("failed with error code 503 != 200", UnavailableError, "503"),
        ("Connection refused", UnavailableError, "refused"),
    ],
)
def test_each_answer_gets_its_reaction_and_keeps_its_text(answer: str, kind: type[Exception], said: str) -> None:
    error = translate(RuntimeError(answer))
    assert type(error) is kind
    assert answer in str(error) and said in str(error)


def test_of_several_lines_only_the_first_is_shown() -> None:
    assert str(translate(RuntimeError("database is locked\n[SQL: INSERT]\n(Background on this error)"))) == (
        "database is locked"
    )
