"""How the operator starts, refuses to start, answers its probes and stops."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operator.raw_objects import job_object
from tests.operator.scripted_api import Answer, ScriptedApi, list_of, scripted_api
from tests.support.ports import free_port
from unimrg_operator.app.health import HealthServer
from unimrg_operator.app.main import main
from unimrg_operator.app.metrics import Metrics


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as server:
        yield server


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(config))
    return path


class Running:
    """The operator as a process."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.port = free_port()
        self.log = log
        command = [sys.executable, "-m", "unimrg_operator.app.main", f"--metrics-address=127.0.0.1:{self.port}"]
        with log.open("ab") as output:
            self.process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output)

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, path: str, status: int, words: str = "") -> str:
        deadline = time.monotonic() + 20.0
        while True:
            found, text = self.page(path)
            if found == status and words in text:
                return text
            assert time.monotonic() < deadline and self.process.poll() is None, (found, text, self.log.read_text())
            time.sleep(0.05)


def test_it_answers_its_probes_counts_jobs_and_stops_in_order(api: ScriptedApi, tmp_path: Path) -> None:
    # Every list is answered alike; what has our kind is taken for a job, and a pod without marks for nobody's.
    api.lists.append(list_of(1, job_object(status={"phase": "Failed"})))
    arguments = ["--namespace=lab", f"--kubeconfig={kubeconfig(tmp_path, api.host)}"]
    running = Running(arguments, tmp_path / "log")
    try:
        running.until("/readyz", 200)
        assert running.page("/healthz")[0] == 200
        assert running.page("/elsewhere")[0] == 404
        metrics = running.until("/metrics", 200, 'unimrg_jobs{phase="Failed"} 1.0')
        assert 'unimrg_cache_synced{kind="PyTorchJob",namespace="lab"} 1.0' in metrics
        for name in ("unimrg_reconcile_seconds_count", "unimrg_workqueue_depth", "# TYPE unimrg_restarts_total"):
            assert name in metrics
        running.process.terminate()
        assert running.process.wait(10.0) == 0
    finally:
        running.process.kill()
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert [line["message"] for line in lines] == [f"looking after lab at {api.host}", "stopping"]
    paths = {request.path.rpartition("/")[2] for request in api.asked()}
    assert paths == {"unimrgjobs", "pytorchjobs", "jobs", "pods"}
    selectors = {request.path.rpartition("/")[2]: request.query.get("labelSelector") for request in api.asked()}
    assert selectors["pods"] == "training.unimrg.dev/job"
    assert all("/namespaces/lab/" in request.path for request in api.requests)


def test_it_is_not_ready_while_a_cache_is_behind_and_says_which(api: ScriptedApi, tmp_path: Path) -> None:
    api.lists.append(Answer(404, b"404 page not found"))
    arguments = ["--namespace=lab", f"--kubeconfig={kubeconfig(tmp_path, api.host)}"]
    running = Running(arguments, tmp_path / "log")
    try:
        text = running.until("/readyz", 503, "pytorchjobs.kubeflow.org in lab are not served")
        assert "unimrgjobs.training.unimrg.dev in lab" in text
        assert running.page("/healthz")[0] == 200
        running.until("/metrics", 200, 'unimrg_watch_restarts_total{cause="missing",kind="Pod"}')
    finally:
        running.process.terminate()
        assert running.process.wait(10.0) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kubeconfig=MISSING"], 64, "cannot be used"),
        (["--profile=MISSING"], 66, "MISSING"),
        (["--metrics-address=nowhere"], 64, "write HOST:PORT"),
        (["--metrics-address=192.0.2.1:1"], 69, "--metrics-address"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(
    api: ScriptedApi,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api.host)))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert (
        main(["--namespace=lab", *(text.replace("MISSING", str(tmp_path / "MISSING")) for text in arguments)]) == code
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unimrg-operator: ")]
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [[], ["--namespace=lab", "--progress-seconds=0.5"], ["--namespace=lab", "--progress-seconds=often"]],
)
def test_flags_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_worker_that_hangs_makes_it_unhealthy() -> None:
    class Loop:
        seconds = 3.0

        def age(self) -> float:
            return self.seconds

    loop = Loop()
    server = HealthServer("127.0.0.1:0", loop, None, Metrics())  # type: ignore[arg-type]
    server.start()
    url = f"http://127.0.0.1:{server.port}/healthz"
    try:
        assert urllib.request.urlopen(url, timeout=5.0).status == 200
        loop.seconds = 181.0
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=5.0)
        assert caught.value.code == 503
    finally:
        server.stop()
