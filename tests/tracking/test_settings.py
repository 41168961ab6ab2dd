"""Where records go, by the job and the environment: what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.errors import ActionRequiredError
from unimrg_trainer.tracking.mlflow_run import MlflowRun
from unimrg_trainer.tracking.settings import TrackingSettings, tracking_uri


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"])
def test_credentials_with_a_line_break_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter2\n")
    with pytest.raises(ActionRequiredError, match=f"{name} begins or ends in white space") as caught:
        MlflowRun(TrackingSettings("http://server", "unimrg", "run", "uid-1", 1)).connect(0)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("uid", ["", "a'b", 'a"b'])
def test_a_uid_that_cannot_be_searched_for_is_refused(uid: str) -> None:
    with pytest.raises(UserError, match="uid"):
        TrackingSettings("http://server", "unimrg", "run", uid, 1)


@pytest.mark.parametrize(
    ("given", "checkpoints", "uri"),
    [
        (None, "file:///runs/a%20b", "sqlite:////runs/a b/mlflow.db"),
        (None, "file:///runs/what%3F", "sqlite+pysqlite:////runs/what%3F/mlflow.db"),
        (None, "file:///runs/my%2520project", "sqlite+pysqlite:////runs/my%2520project/mlflow.db"),
        (None, "s3://bucket/run", "sqlite:////local/mlflow.db"),
        ("sqlite:///here/m.db", "file:///runs/a", "sqlite:////base/here/m.db"),
        ("http://server", "file:///runs/a", "http://server"),
    ],
)
def test_the_tracking_uri_is_the_given_one_or_a_file_of_the_run(given: str | None, checkpoints: str, uri: str) -> None:
    assert tracking_uri(given, Path("/base"), checkpoints, Path("/local")) == uri
