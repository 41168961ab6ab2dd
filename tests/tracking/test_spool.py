"""The spool as its writer and its readers see it; no server and no MLflow."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.virtual_clock import VirtualClock
from tests.support.waiting import wait_until
from unimrg_trainer.tracking.segments import list_segments, read_curves, read_records
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments
from unimrg_trainer.tracking.system_metrics import watch_system

WRITER = """
import sys
from pathlib import Path
from unimrg_trainer.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]), 1)
for step in range(1, 1_000_000):
    spool.step(step, {"train/loss": step / 3})
    sys.stdout.write(f"{step}\\n")
    sys.stdout.flush()
"""


def time_stamps(folder: Path) -> list[int]:
    return [record.ts for record in read_records(folder)]


def test_what_is_written_is_read_back_with_all_its_bits(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    spool.begin(0)
    spool.step(1, {"train/loss": 0.1 + 0.2, "train/grad_norm": math.nan})
    spool.step(2, {"train/loss": -math.inf})

    curves = read_curves(tmp_path)

    assert curves["train/loss"] == {1: 0.1 + 0.2, 2: -math.inf}
    assert math.isnan(curves["train/grad_norm"][1])


def test_a_killed_writer_loses_no_line_that_it_had_written(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 200:
            break
    os.kill(process.pid, signal.SIGKILL)
    reported = [200, *(int(line) for line in process.stdout if line.endswith("\n"))]
    process.wait()

    steps = read_curves(tmp_path)["train/loss"]

    assert max(steps) >= max(reported)
    assert list(steps) == list(range(1, max(steps) + 1))


def test_a_torn_last_line_is_skipped_and_never_continued(tmp_path: Path) -> None:
    first = Spool(tmp_path, 1)
    first.step(1, {"train/loss": 1.0})
    segment = tmp_path / first.close_segment()[0]
    with segment.open("ab") as file:
        file.write(b'{"ts":17000000')

    second = Spool(tmp_path, 1)
    second.step(2, {"train/loss": 2.0})

    assert read_curves(tmp_path)["train/loss"] == {1: 1.0, 2: 2.0}
    assert len(list_segments(tmp_path)) == 2


def test_damaged_lines_in_the_middle_are_skipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    spool.step(1, {"train/loss": 1.0})
    segment = tmp_path / spool.close_segment()[0]
    good = segment.read_bytes()
    segment.write_bytes(b'\xff\xfe\x00\n[]\n{"metrics":{"train/loss":2.0},"step":"1","ts":1,"attempt":1}\n' + good)

    assert read_curves(tmp_path) == {"train/loss": {1: 1.0}}


def test_time_stamps_never_decrease_although_the_clock_is_set_back(tmp_path: Path, virtual_clock: VirtualClock) -> None:
    first = Spool(tmp_path, 1, virtual_clock)
    first.step(1, {"train/loss": 1.0})
    virtual_clock.advance(-3600)
    first.step(2, {"train/loss": 2.0})
    virtual_clock.advance(-3600)
    second = Spool(tmp_path, 2, virtual_clock)
    second.begin(1)
    virtual_clock.advance(10_000)
    second.step(3, {"train/loss": 3.0})

    assert time_stamps(tmp_path) == [1_700_000_000_000] * 3 + [1_700_002_800_000]


def test_attempts_tell_when_they_began_and_from_which_step(tmp_path: Path, virtual_clock: VirtualClock) -> None:
    Spool(tmp_path, 1, virtual_clock).begin(0)
    virtual_clock.advance(60)
    Spool(tmp_path, 2, virtual_clock).begin(500)

    attempts = [(entry.attempt, entry.ts, entry.resume_step) for entry in read_records(tmp_path)]

    assert attempts == [(1, 1_700_000_000_000, 0), (2, 1_700_000_060_000, 500)]


def test_closed_segments_never_change_and_include_those_of_dead_attempts(tmp_path: Path) -> None:
    dead = Spool(tmp_path, 1)
    dead.step(1, {"train/loss": 1.0})
    spool = Spool(tmp_path, 2)
    assert len(spool.close_segment()) == 1  # nothing of this attempt yet
    spool.step(2, {"train/loss": 2.0})

    names = spool.close_segment()
    before = {name: (tmp_path / name).read_bytes() for name in names}
    spool.step(3, {"train/loss": 3.0})

    assert [name.split("/")[0] for name in names] == ["attempt-1", "attempt-2"]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert len(spool.close_segment()) == 3


def test_copying_twice_writes_once_and_restoring_gives_the_same_curves(
    tmp_path: Path, dictionary_store: DictionaryStore
) -> None:
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"png")
    spool = Spool(tmp_path / "spool", 1)
    spool.step(1, {"train/loss": 1.0})
    spool.artifact(picture, "results")
    names = spool.close_segment()
    with (tmp_path / "spool" / names[0]).open("ab") as file:
        file.write(b'{"ts":1')  # as a killed writer leaves it

    copy_segments(tmp_path / "spool", names, dictionary_store)
    before = dict(dictionary_store.objects)
    copy_segments(tmp_path / "spool", [*names, "attempt-1/gone.jsonl"], dictionary_store)
    restore_segments(dictionary_store, tmp_path / "elsewhere")

    assert dictionary_store.objects == before
    assert sorted(Path(key).name for key in before) == ["grid.png", Path(names[0]).name]
    assert dictionary_store.objects[f"spool/{names[0]}"].endswith(b"\n")
    assert read_curves(tmp_path / "elsewhere") == read_curves(tmp_path / "spool")
    assert next((tmp_path / "elsewhere").rglob("grid.png")).read_bytes() == b"png"


def test_the_open_segment_of_another_writer_is_not_closed(tmp_path: Path) -> None:
    """The launcher records the node's load beside the ranks, in the same attempt."""
    spool, launcher = Spool(tmp_path, 1), Spool(tmp_path, 1)
    for writer in (spool, launcher):
        writer.step(1, {"train/loss": 1.0})

    (name,) = spool.close_segment()

    assert sorted(list_segments(tmp_path)) == sorted([name, *launcher.close_segment()])


def test_restoring_writes_nothing_outside_the_spool(tmp_path: Path, dictionary_store: DictionaryStore) -> None:
    dictionary_store.objects["spool/attempt-1/../../outside.jsonl"] = b"x\n"
    dictionary_store.put("spool/elsewhere.json", b"{}")

    restore_segments(dictionary_store, tmp_path / "spool")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_attempt_never_use_one_name(tmp_path: Path) -> None:
    for folder in ("training", "evaluation"):  # two pods, each with an empty disk
        Spool(tmp_path / folder, 1).step(1, {"train/loss": 1.0})

    assert list_segments(tmp_path / "training") != list_segments(tmp_path / "evaluation")


def test_secrets_do_not_reach_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    spool.params(
        {
            "tracking.password": "hunter2-a",
            "s3.secretAccessKey": "hunter2-b",
            "hub_token": "hunter2-c",
            "uri": "https://me:hunter2-d@host/x",
            "tokenizer": "byte-level",
            "perf.tokens_per_s": 12,
            "passphrase": "h 2",
            "model.custom.password.value": "hunter2-f",
        }
    )
    spool.tags({"api-key": "hunter2-e"})

    text = (tmp_path / spool.close_segment()[0]).read_text()

    assert "hunter2" not in text and "h 2" not in text
    assert "byte-level" in text and '"12"' in text


def test_a_full_disk_costs_points_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, 1)
    spool.step(1, {"train/loss": 1.0})
    real_write = os.write

    def half_then_full(descriptor: int, data: bytes) -> int:
        real_write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        spool.step(2, {"train/loss": 2.0})
        spool.step(3, {"train/loss": 3.0})
    spool.step(4, {"train/loss": 4.0})

    assert read_curves(tmp_path)["train/loss"] == {1: 1.0, 4: 4.0}
    assert len(caplog.records) == 1


def test_a_missing_file_is_no_artifact_and_no_error(tmp_path: Path) -> None:
    assert not Spool(tmp_path, 1).artifact(tmp_path / "missing.png")


def test_the_load_of_the_node_is_recorded_under_names_of_mlflow(tmp_path: Path) -> None:
    stop = watch_system(Spool(tmp_path, 1), 2, interval=0.01)
    wait_until(lambda: read_curves(tmp_path) != {})
    stop.set()

    curves = read_curves(tmp_path)

    assert 0 < min(curves["system/node_2/system_memory_usage_percentage"].values()) < 100
    assert {"system/node_2/cpu_utilization_percentage", "system/node_2/network_receive_megabytes"} <= set(curves)


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = "import sys, unimrg_trainer.tracking; sys.exit('mlflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
