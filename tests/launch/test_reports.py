"""What the pod says of itself: progress endpoint, metrics and the termination record."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from unimrg_api.environment import PodEnvironment
from unimrg_api.exit_codes import ExitCode
from unimrg_api.progress import Progress
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.launch.exit_records import ExitResult
from unimrg_trainer.launch.progress_server import PORT_FILE, serve_progress
from unimrg_trainer.launch.reports import heartbeat, read_progress, report_stage, termination_record, write_termination


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        content: bytes = answer.read()
    return content


def report(folder: Path, **fields: object) -> None:
    progress = Progress(stage="train", step=3, total_steps=9, updated=time.time())
    (folder / "progress.json").write_text(progress.model_copy(update=fields).to_json())


def test_progress_and_the_mlflow_run_are_served_as_one(tmp_path: Path) -> None:
    report(tmp_path, losses={"pixel": 0.5})
    (tmp_path / "mlflow.json").write_text(json.dumps({"run_id": "abc", "url": "http://mlflow", "problem": "refused"}))
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        assert int((tmp_path / PORT_FILE).read_text()) == port
        answer = Progress.parse(get(port, "/progress"))
    assert answer is not None
    assert (answer.step, answer.losses, answer.mlflow_run_id) == (3, {"pixel": 0.5}, "abc")
    assert (answer.mlflow_url, answer.mlflow_problem) == ("http://mlflow", "refused")


def test_a_progress_report_that_says_too_much_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"stage": "train", "message": "' + "x" * 10_000 + '"}')
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        assert len(get(port, "/progress")) <= 4096
        (tmp_path / "progress.json").unlink()
        assert Progress.parse(get(port, "/progress")) == Progress()


def test_metrics_are_in_the_text_format_of_prometheus(tmp_path: Path) -> None:
    training = {"loss": 0.25, "skipped_steps": 4, "slowest_rank": 1, "slowest_rank_ratio": 1.5}
    report(tmp_path, losses={"pixel": 0.5}, rows_per_second=12.0, checkpoint_step=2, checkpoint_time=1.0, **training)
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        lines = get(port, "/metrics").decode().splitlines()
    assert "unimrg_step 3.0" in lines
    assert "unimrg_checkpoint_step 2.0" in lines
    assert 'unimrg_loss{objective="pixel"} 0.5' in lines
    assert 'unimrg_stage{stage="train"} 1.0' in lines
    wanted = {"total_loss": 0.25, "skipped_steps": 4.0, "slowest_rank": 1.0, "slowest_rank_ratio": 1.5}
    assert {f"unimrg_{name} {value}" for name, value in wanted.items()} <= set(lines)
    assert any(line.startswith("unimrg_checkpoint_age_seconds ") and float(line.split()[1]) > 1e6 for line in lines)


def test_a_termination_record_is_written_over_the_old_one_in_place(tmp_path: Path) -> None:
    """In a pod the file is a bind mount: a rename over it is refused by the kernel."""
    path = tmp_path / "termination-log"
    path.write_text("x" * 5000)
    inode = path.stat().st_ino
    write_termination(PodEnvironment(termination_log=path), TerminationRecord(reason="Stalled", exit_code=75))
    assert path.stat().st_ino == inode
    write_termination(PodEnvironment(termination_log=tmp_path / "missing" / "log"), TerminationRecord())  # only logged
    assert TerminationRecord.parse(path.read_bytes()).exit_code == 75


def test_the_record_says_how_far_the_work_came(tmp_path: Path) -> None:
    report(tmp_path, checkpoint_step=2)
    (tmp_path / "mlflow.json").write_text('{"run_id": "abc"}')
    env = PodEnvironment(run_dir=tmp_path, processes=2)
    record = termination_record(ExitResult(ExitCode.PROGRAM, "ValueError", "a bug", rank=1), env)
    assert (record.exit_code, record.step, record.total_steps, record.mlflow_run_id) == (70, 3, 9, "abc")
    assert (record.rank, record.message, record.checkpoint_step) == (1, "rank 1: a bug", 2)


@pytest.mark.parametrize(
    ("code", "processes", "message"),
    [
        (ExitCode.GPU_FAULT, 2, "rank 1: what happened"),
        (ExitCode.CONFIGURATION, 2, "what happened"),
        (ExitCode.INTERRUPTED, 2, "what happened"),
        (ExitCode.PROGRAM, 1, "what happened"),
    ],
)
def test_a_rank_is_named_where_it_is_one_of_several_and_to_blame(
    code: ExitCode, processes: int, message: str, tmp_path: Path
) -> None:
    env = PodEnvironment(run_dir=tmp_path, processes=processes)
    assert termination_record(ExitResult(code, "Reason", "what happened", rank=1), env).message == message


def test_a_new_stage_keeps_the_last_commit_and_is_a_sign_of_life(tmp_path: Path) -> None:
    assert heartbeat(tmp_path) is None
    report(tmp_path, checkpoint_step=2)
    before = heartbeat(tmp_path)
    report_stage(tmp_path, "evaluate")
    progress = read_progress(tmp_path)
    assert (progress.stage, progress.step, progress.checkpoint_step) == ("evaluate", 0, 2)
    assert heartbeat(tmp_path) not in (None, before)
