"""The pod's entry point: from environment variables to an exit code, a termination record and a log."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.local_jobs import tiny_job
from unimrg_api.progress import Progress
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch import logs, stages
from unimrg_trainer.launch.local import local_environment
from unimrg_trainer.launch.logs import Echo, tail
from unimrg_trainer.launch.main import main


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process has a pod's variables, with this test's paths; the pod's local folder."""
    job, file = tiny_job(tmp_path)
    env = local_environment(job, file, None)
    for name, value in env.to_environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UNIMRG_UID", str(tmp_path))  # a progress port of our own
    env.run_dir.mkdir(parents=True)
    return env.run_dir


def test_a_pod_ends_with_its_stages_code_and_a_termination_record(pod: Path) -> None:
    assert exit_code("check") == 0
    assert TerminationRecord.parse((pod / "termination.json").read_bytes()).reason == "Completed"


def test_a_pod_serves_its_progress_while_it_works(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress | None] = []

    def look(context: stages.StageContext) -> stages.ExitResult:
        port = int((pod / "progress.port").read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress") as reply:
            seen.append(Progress.parse(reply.read()))
        return stages.ExitResult(stages.ExitCode.OK, "Completed")

    monkeypatch.setitem(stages._STAGES, "check", look)
    assert exit_code("check") == 0
    assert seen[0] is not None and seen[0].stage == "check"


def test_a_wrong_variable_stands_in_the_termination_record(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMRG_PROCESSES", "many")
    assert exit_code("check") == 64
    assert "UNIMRG_PROCESSES" in TerminationRecord.parse((pod / "termination.json").read_bytes()).message


def test_the_log_of_the_first_rank_is_repeated_as_it_grows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("an earlier stage\n")
    with Echo(log), log.open("a") as file:
        file.write("step 1\n")
    assert capfd.readouterr().out == "step 1\n"


@pytest.mark.parametrize("gone", [True, False], ids=["a closed pipe", "a pipe that nobody reads"])
def test_a_standard_output_that_takes_nothing_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    asked, released = threading.Event(), threading.Event()

    def write(_: int, content: bytes) -> int:
        asked.set()
        if gone:
            raise BrokenPipeError
        released.wait(60)
        return len(content)

    log = tmp_path / "rank-0.log"
    monkeypatch.setattr(logs, "os", SimpleNamespace(write=write))
    with Echo(log):
        log.write_text("step 1\n")
        assert asked.wait(10)
    assert not released.is_set()  # the block ended although nothing was taken
    released.set()


def test_the_end_of_a_long_log_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(log, limit=20) == b"line 98\nline 99\n"
    assert tail(log, limit=20, since=log.stat().st_size - 8) == b"line 99\n"
    assert tail(tmp_path / "missing") == b""
