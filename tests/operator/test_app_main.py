"""How the operator starts, refuses to start and answers its probes.

That it stops at SIGTERM and goes on after an outage is tried at the real API server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.operator.raw_objects import job_object
from tests.operator.scripted_api import ScriptedApi, list_of
from tests.support.api_stand_in import NOT_FOUND, write_kubeconfig
from tests.support.ports import free_port
from unimrg_operator.app.health import health_server
from unimrg_operator.app.main import main
from unimrg_operator.app.metrics import Metrics


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def until_page(port: int, path: str, status: int, text: str = "") -> str:
    deadline = time.monotonic() + 20.0
    while True:
        found = page(port, path)
        if found[0] == status and text in found[1]:
            return found[1]
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_it_is_ready_once_every_kind_is_listed_and_says_which_is_not(api: ScriptedApi, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    api.lists.append(NOT_FOUND)  # to whatever kind is listed first, and then to all
    write_kubeconfig(tmp_path / "kubeconfig", api.host)
    command = [sys.executable, "-m", "unimrg_operator.app.main", f"--metrics-address=127.0.0.1:{port}"]
    arguments = ["--namespace=lab", f"--kubeconfig={tmp_path}/kubeconfig"]
    with log.open("ab") as output, subprocess.Popen([*command, *arguments], stderr=output, stdout=output) as process:
        try:
            text = until_page(port, "/readyz", 503, "pytorchjobs.kubeflow.org in lab are not served")
            assert "unimrgjobs.training.unimrg.dev in lab" in text
            assert (page(port, "/healthz")[0], page(port, "/elsewhere")[0]) == (200, 404)
            until_page(port, "/metrics", 200, 'unimrg_watch_restarts_total{cause="NotFound",kind="Pod"}')
            # Every list is answered alike: what has our kind is a job, and a pod without labels is nobody's.
            api.lists.append(list_of(1, job_object(status={"phase": "Failed"})))
            until_page(port, "/readyz", 200)
            until_page(port, "/metrics", 200, 'unimrg_jobs{phase="Failed"} 1.0')
            metrics = until_page(port, "/metrics", 200, 'unimrg_cache_synced{kind="PyTorchJob",namespace="lab"} 1.0')
            for name in ("unimrg_reconcile_seconds_count", "unimrg_workqueue_depth", "# TYPE unimrg_restarts_total"):
                assert name in metrics
        finally:
            process.terminate()
        assert process.wait(10.0) == 0
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert (messages[0], messages[-1]) == (f"looking after lab at {api.host}", "stopping")
    selectors = {request.path.rpartition("/")[2]: request.query.get("labelSelector") for request in api.asked()}
    assert set(selectors) == {"unimrgjobs", "pytorchjobs", "jobs", "pods"}
    assert selectors["pods"] == "training.unimrg.dev/job"
    assert all("/namespaces/lab/" in request.path for request in api.requests)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--kubeconfig=MISSING"], 64, "cannot be used"),
        (["--profile=MISSING"], 66, "MISSING"),
        (["--leader-elect"], 64, "give --lease-namespace"),
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
    message: str,
) -> None:
    write_kubeconfig(tmp_path / "kubeconfig", api.host)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    given = [text.replace("MISSING", str(tmp_path / "MISSING")) for text in arguments]
    assert main(["--namespace=lab", *given]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unimrg-operator: ")]
    assert message in line


@pytest.mark.parametrize(
    "arguments", [[], ["--namespace=lab", "--progress-seconds=0.5"], ["--namespace=lab", "--qps=none"]]
)
def test_flags_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_worker_that_hangs_makes_it_unhealthy() -> None:
    ages = [3.0]
    loop: Any = SimpleNamespace(age=lambda: ages[-1])
    world: Any = None
    server = health_server("127.0.0.1:0", loop, world, Metrics())
    server.start()
    try:
        assert page(server.port, "/healthz")[0] == 200
        ages.append(181.0)
        assert page(server.port, "/healthz")[0] == 503
    finally:
        server.stop()
