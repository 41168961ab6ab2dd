"""`unimrg status` and `unimrg ckpt`: what they read from the objects under a run's prefix, and delete."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Unimrg
from tests.support.faulty_stores import flip
from tests.support.good_jobs import GOOD_JOB
from unimrg_api.load import load_job
from unimrg_api.progress import Progress
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.checkpoint.discover import quarantine
from unimrg_trainer.checkpoint.layout import Marker
from unimrg_trainer.checkpoint.lease import acquire
from unimrg_trainer.storage import LocalStore


class Run:
    """A run's prefix, written object by object; the job's file lies beside it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "job.yaml"
        self.file.write_text(GOOD_JOB)
        self.root = folder / "run"

    def put(self, key: str, value: object) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    def attempt(self, number: int) -> None:
        self.put("job.json", {"uid": "f00", "digest": "d"})
        self.put(f"attempts/{number}.json", {"claim": "c"})

    def progress(self, **values: object) -> None:
        self.put("local/progress.json", Progress.model_validate(values).to_json())

    def outcome(self, attempt: int, stage: str, code: int, reason: str = "Completed", message: str = "") -> None:
        record = TerminationRecord(reason=reason, exit_code=code, message=message)
        self.put(f"outcomes/attempt-{attempt}-{stage}.json", record.to_json())

    def commit(self, step: int, attempt: int, generation: int = 0, size: int = 100) -> Path:
        """Commit one object; return its path."""
        folder = f"ckpt/step-{step:08d}/attempt-{attempt}-0123abcd/"
        self.put(f"{folder}rank-0.safetensors", "x" * size)
        manifest = {
            "schema_version": 2,
            **{"step": step, "attempt": attempt, "uid": "f00", "world_size": 1, "strategy": "ddp"},
            **{"created": "2026-01-02T03:04:05+00:00", "reason": "schedule"},
            **{"training_digest": "c", "data_digest": "d", "mlflow_run_id": None, "spool_segments": []},
            "objects": {"rank-0.safetensors": {"size": size, "chunk_bytes": size, "sha256": ["0" * 64]}},
            "tensors": {},
        }
        self.put(f"{folder}manifest.json", manifest)
        digest = hashlib.sha256((self.root / folder / "manifest.json").read_bytes()).hexdigest()
        marker = {"schema_version": 2, "manifest": f"{folder}manifest.json", "sha256": digest}
        self.put(f"ckpt/step-{step:08d}/COMMITTED-{generation}", marker)
        return self.root / folder / "rank-0.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def state(unimrg: Unimrg, target: object) -> str:
    ended = unimrg("status", target, "--output", "json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["state"]
    assert isinstance(found, str)
    return found


def test_checkpoints_are_listed_newest_first(unimrg: Unimrg, run: Run) -> None:
    for step in (10, 100, 20):
        run.commit(step, attempt=1)
    run.commit(100, attempt=2, generation=1)
    run.put("ckpt/step-00000100/QUARANTINED-0", {})
    run.put("ckpt/step-00000200/attempt-3-0123abcd/rank-0.safetensors", "never committed")
    ended = unimrg("ckpt", "ls", run.file, "--output", "json")
    assert ended.code == 0
    rows = json.loads(ended.out)
    listed = [(row["step"], row["generation"], row["attempt"]) for row in rows]
    assert listed == [(100, 1, 2), (100, 0, None), (20, 0, 1), (10, 0, 1)], "one is quarantined, and says not why"
    assert rows[2]["marker"] == "ckpt/step-00000020/COMMITTED-0"
    assert rows[2]["created"] == "2026-01-02T03:04:05+00:00"
    assert rows[2]["bytes"] == 100
    assert [row["sizesVerified"] for row in rows] == [True, False, True, True]


def test_a_damaged_checkpoint_is_shown_as_such(unimrg: Unimrg, run: Run) -> None:
    run.commit(10, attempt=1).write_text("short")
    run.commit(20, attempt=1).unlink()
    run.commit(30, attempt=1).with_name("manifest.json").write_text("{")
    run.commit(40, attempt=1)
    run.put("ckpt/step-00000040/COMMITTED-0", "not JSON")
    rows = json.loads(unimrg("ckpt", "ls", run.file, "-o", "json").out)
    said = ("COMMITTED-0 is not JSON", "is not what", "rank-0.safetensors is missing", "5 bytes instead of 100")
    assert all(part in row["finding"] for part, row in zip(said, rows, strict=True))
    assert not any(row["sizesVerified"] for row in rows)
    assert "5 bytes instead of 100" in unimrg("ckpt", "ls", run.file).out


def test_file_folder_and_uri_name_the_same_run(
    unimrg: Unimrg, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.commit(10, attempt=1)
    monkeypatch.chdir(tmp_path)
    listings = {unimrg("ckpt", "ls", target).out for target in (run.file, run.root, run.root.as_uri(), "file://run")}
    assert len(listings) == 1
    assert "ok" in listings.pop()


def test_a_run_that_has_not_begun_is_no_error_but_a_wrong_uri_is(unimrg: Unimrg, run: Run, tmp_path: Path) -> None:
    assert state(unimrg, run.file) == "NotStarted"
    assert "no committed checkpoint yet" in unimrg("ckpt", "ls", run.file).out
    for command in (["status"], ["ckpt", "ls"]):
        for target in (f"file://{tmp_path}/elsewhere", tmp_path, "nowhere"):
            ended = unimrg(*command, target)
            assert ended.code == 66
            assert "Traceback" not in ended.err


def test_a_run_in_full(unimrg: Unimrg, run: Run) -> None:
    run.attempt(1)
    run.attempt(2)
    run.outcome(1, "train", 85, "Interrupted", "stopped after step 20 [bold]")
    run.outcome(2, "train", 0)
    run.outcome(2, "evaluate", 0)
    run.put("outcomes/finished.json", {"attempt": "2", "result": "Succeeded", "tracked": True})
    run.commit(40, attempt=2)
    run.progress(stage="finish", step=40, total_steps=40, losses={"depth": 0.25}, updated=1.0)
    run.put("local/mlflow.json", {"run_id": "r", "url": "http://mlflow/r", "problem": "MLflow refuses"})
    run.put("results/summary.json", {"spatial": {"accuracy": 0.5}})
    described = json.loads(unimrg("status", run.file, "--output", "json").out)
    assert (described["state"], described["uid"], described["attempts"]) == ("Completed", "f00", 2)
    assert described["progress"]["losses"] == {"depth": 0.25}
    assert described["checkpoint"]["step"] == 40
    assert [item["stage"] for item in described["outcomes"]] == ["train", "train", "evaluate"]
    assert described["results"] == {"spatial": {"accuracy": 0.5}}
    shown = unimrg("status", run.file).out
    for words in ("Completed", "depth 0.2500", "http://mlflow/r", "MLflow refuses", "after step 20 [bold]"):
        assert words in shown


@pytest.mark.parametrize(
    ("codes", "finished", "expected"),
    [
        ({"train": 0, "evaluate": 0}, {"attempt": "2", "result": "Succeeded"}, "Completed"),
        ({"train": 70}, {"attempt": "2", "result": "Failed"}, "Failed"),
        ({"train": 85}, {"attempt": "2", "result": "Interrupted"}, "Stopped"),
        ({"train": 0}, {"attempt": "1", "result": "Succeeded"}, "Stopped"),  # killed in attempt 2, before its end
        ({"train": 85, "evaluate": 66}, {}, "Failed"),
        ({}, {"attempt": "2", "result": []}, "Stopped"),
    ],
)
def test_the_state_of_a_run_at_rest(
    codes: dict[str, int], finished: dict[str, object], expected: str, unimrg: Unimrg, run: Run
) -> None:
    run.attempt(1)
    run.outcome(1, "train", 70)
    run.attempt(2)
    run.put("outcomes/finished.json", finished)
    for stage, code in codes.items():
        run.outcome(2, stage, code)
    assert state(unimrg, run.file) == expected


def test_a_run_that_failed_before_its_first_attempt_says_why(unimrg: Unimrg, run: Run) -> None:
    run.progress(stage="check")
    record = TerminationRecord(reason="InputMissing", exit_code=66, message="no data")
    run.put("local/termination.json", record.to_json())
    assert state(unimrg, run.root) == "Failed"
    assert "InputMissing (66): no data" in unimrg("status", run.root).out


def test_a_run_is_running_while_the_process_in_its_lock_is_alive(unimrg: Unimrg, run: Run) -> None:
    run.progress(stage="train", step=3, total_steps=9, eta_seconds=61.0, message="DDP, 2 processes")
    run.put("local/lock", f"process {os.getpid()}, started now\n")
    assert state(unimrg, run.file) == "Running"
    shown = unimrg("status", run.file).out
    assert "1m01s" in shown and "train, step 3 of 9" in shown and "DDP, 2 processes" in shown
    run.put("local/lock", "process 4194304999, started long ago\n")
    assert state(unimrg, run.file) == "Stopped"
    run.put("local/lock", "")
    assert state(unimrg, run.file) == "Stopped"


def test_damaged_objects_of_a_run_do_not_break_the_view(unimrg: Unimrg, run: Run) -> None:
    run.attempt(1)
    for key in ("job.json", "local/progress.json", "local/mlflow.json", "results/summary.json", "local/lock"):
        run.put(key, "\x00{")
    run.put("outcomes/attempt-1-train.json", "[]")
    run.put("outcomes/evaluated.json", "{}")
    assert unimrg("status", run.file).code == 0


def test_the_real_writers_commit_is_read(unimrg: Unimrg, run: Run) -> None:
    """This reader, which does without torch, agrees with the writer."""
    torch = pytest.importorskip("torch")
    from tests.support.checkpoints import SingleProcess
    from unimrg_trainer.checkpoint.checkpointer import Checkpointer
    from unimrg_trainer.checkpoint.retention import Policy
    from unimrg_trainer.checkpoint.state import LocalState, Piece
    from unimrg_trainer.checkpoint.writer import Origin

    checkpointer = Checkpointer(
        LocalStore(run.root),
        Origin("f00", 3, "ddp", training_digest="0" * 64, data_digest="0" * 64),
        retention=Policy(keep_last=3),
        agreement=SingleProcess(),
    )
    checkpointer.save(LocalState(7, [Piece("model/a", (5,), 0, torch.zeros(5))]), "schedule")
    (row,) = json.loads(unimrg("ckpt", "ls", run.root, "--output", "json").out)
    assert (row["step"], row["attempt"], row["reason"], row["sizesVerified"]) == (7, 3, "schedule", True)
    assert row["created"]


@pytest.fixture
def written(run: Run) -> LocalStore:
    """Four real commits of the run, by attempt 1 of 2."""
    from tests.support.checkpoints import checkpointer, small_state

    store = LocalStore(run.root)
    for step in (10, 20, 30, 40):
        checkpointer(store, attempt=1).save(small_state(step), "periodic")
    run.attempt(2)
    return store


def test_verifying_reads_every_byte_and_names_what_is_damaged(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    ended = unimrg("ckpt", "verify", run.file, "--output", "json")
    assert ended.code == 0 and [row["step"] for row in json.loads(ended.out)] == [40, 30, 20, 10]
    key = next(key for key, _ in written.list("ckpt/step-00000030/") if "rank-0" in key)
    written.put(key, flip(written.get(key)))
    listed = unimrg("ckpt", "ls", run.file).out
    assert "SIZES" in listed and "SHA-256" not in listed, "its sizes are right"
    assert "`unimrg ckpt verify` reads them all" in listed
    ended = unimrg("ckpt", "verify", run.root)
    assert ended.code == 65
    assert "the SHA-256 of bytes 0 to" in ended.out and "the checkpoint of step 30 is damaged" in ended.err
    assert unimrg("ckpt", "verify", run.file, "--step", "20").code == 0
    assert unimrg("ckpt", "verify", run.file, "--step", "25").code == 66


def test_quarantined_checkpoints_are_listed(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    quarantine(written, Marker(40, 0), "a byte flipped")
    rows = json.loads(unimrg("ckpt", "ls", run.file, "--output", "json").out)
    assert [(row["step"], row["finding"]) for row in rows][:2] == [(40, "quarantined: a byte flipped"), (30, None)]


def test_pruning_never_deletes_the_last_commit_that_verifies(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    for key, _ in written.list("ckpt/"):
        if "rank-0" in key and "step-00000010" not in key:
            written.put(key, written.get(key)[:-1])
    before = written.list("ckpt/")
    assert unimrg("ckpt", "prune", run.file, "--keep-last", "2", "--keep-every", "1000", "--yes").code == 0
    assert written.list("ckpt/") == before


def test_pruning_shows_first_and_deletes_only_when_told_to(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    before = written.list()
    shown = unimrg("ckpt", "prune", run.file, "--keep-last", "2", "--keep-every", "20")
    assert shown.code == 0 and "1 checkpoint, " in shown.out and "--yes" in shown.out
    assert written.list() == before
    planned = json.loads(unimrg("ckpt", "prune", run.file, "--keep-last", 2, "--keep-every", 20, "-o", "json").out)
    assert (planned["deleted"], [one["step"] for one in planned["checkpoints"]]) == (False, [10])
    deleted = unimrg("ckpt", "prune", run.file, "--keep-last", "2", "--keep-every", "20", "--yes")
    assert deleted.code == 0 and "expired" in deleted.out
    assert {key.split("/")[1] for key, _ in written.list("ckpt/")} == {f"step-000000{step}" for step in (20, 30, 40)}
    assert unimrg("ckpt", "verify", run.file).code == 0


def test_pruning_a_folder_keeps_what_its_job_keeps(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    before = written.list("ckpt/")
    refused = unimrg("ckpt", "prune", run.root, "--keep-last", "2", "--yes")
    assert refused.code == 66 and "both --keep-last and --keep-every" in refused.err
    assert written.list("ckpt/") == before
    job = load_job(run.file).model_dump(mode="json", by_alias=True, exclude_none=True)
    job["spec"]["checkpoint"] |= {"keepLast": 2, "keepEvery": 20}
    run.put("spool/attempt-2/files/1/unimrgjob.json", job)
    assert unimrg("ckpt", "prune", run.root, "--yes").code == 0
    assert {key.split("/")[1] for key, _ in written.list("ckpt/")} == {f"step-000000{step}" for step in (20, 30, 40)}


def test_pruning_is_refused_while_a_training_holds_the_lease(unimrg: Unimrg, run: Run, written: LocalStore) -> None:
    lease = acquire(written, "job", 2)
    before = written.list("ckpt/")
    prune = ("ckpt", "prune", run.root, "--keep-last", "2", "--keep-every", "1000")
    refused = unimrg(*prune, "--yes")
    assert refused.code == 69 and f"process {os.getpid()}" in refused.err
    assert unimrg(*prune).code == 0, "to look deletes nothing"
    assert written.list("ckpt/") == before
    lease.release()
    assert unimrg(*prune, "--yes").code == 0
    assert "nothing to delete" in unimrg(*prune).out


def test_the_logs_of_a_run_are_those_here_and_those_that_were_kept(unimrg: Unimrg, run: Run) -> None:
    run.attempt(1)
    run.put("logs/attempt-1/train/rank-0.log", "the end\n")
    run.put("logs/attempt-1/train/rank-1.log", "of rank 1\n")
    run.put("local/logs/attempt-1/train/rank-0.log", "all\nto the end\n")
    assert unimrg("logs", run.file).out == "all\nto the end\n"
    assert unimrg("logs", run.file, "--tail", 1).out == "to the end\n"
    assert unimrg("logs", run.root, "--rank", 1, "--follow").out == "of rank 1\n"
    assert unimrg("logs", run.root, "--rank", "all").out == "[rank 0] all\n[rank 0] to the end\n[rank 1] of rank 1\n"
    run.put("local/logs/attempt-2/evaluate/rank-0.log", "scores\n")
    assert unimrg("logs", run.file).out == "scores\n"
    unimrg("logs", run.file, "--stage", "train", "--attempt", 3).refused(66, "there are logs of train of attempt 1")
    unimrg("logs", run.file, "--rank", 7).refused(66, "its ranks are 0")
    unimrg("logs", run.file, "--stage", "prepare").refused(66, "launcher.log")


def test_a_log_is_followed_as_long_as_its_run_goes_on(unimrg: Unimrg, run: Run) -> None:
    run.attempt(1)
    run.put("local/logs/attempt-1/train/rank-0.log", "one\ntwo\n")
    writer = "import sys, time; sys.stdin.read(); open(sys.argv[1], 'a').write('three\\nfour\\n')"
    log = run.root / "local/logs/attempt-1/train/rank-0.log"
    command = [sys.executable, "-c", writer, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        run.put("local/lock", f"process {process.pid}, started now\n")
        follower = [sys.executable, "-m", "unimrg_cli.main", "logs", str(run.file), "--follow", "--tail", "1"]
        with subprocess.Popen(follower, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None and process.stdin is not None
            assert following.stdout.readline() == "two\n"
            process.stdin.close()
            process.wait(30)
            assert following.stdout.read() == "three\nfour\n"
