"""What is sent of a spool, and what a server is left with, against one made of lists."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.dictionary_store import DictionaryStore
from tests.support.list_server import SETTINGS, ListServer, spool_with
from unimrg_trainer.tracking.errors import UnavailableError
from unimrg_trainer.tracking.mlflow_run import MlflowRun
from unimrg_trainer.tracking.settings import TrackingSettings
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments
from unimrg_trainer.tracking.upload import SpoolUpload


def test_no_batch_is_larger_than_the_server_takes(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=70, metrics=30)
    server = ListServer()

    SpoolUpload(tmp_path, server).run()

    assert len(server.points()) == 2100
    assert max(server.batches) <= 1000


def test_a_line_that_is_still_being_written_is_left_for_the_next_pass(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=2)
    segment = tmp_path / "spool" / spool.close_segment()[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    server = ListServer()
    upload = SpoolUpload(tmp_path, server)

    upload.run()
    assert len(server.points()) == 1
    segment.write_bytes(whole)
    upload.run()

    assert len(server.points()) == 2


def test_a_damaged_line_holds_nothing_up_and_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = spool_with(tmp_path, steps=1)
    with (tmp_path / "spool" / spool.close_segment()[0]).open("a") as file:
        file.write("not json\n")
    spool.step(2, {"train/metric-0": 2.0})
    server = ListServer()

    SpoolUpload(tmp_path, server).run()
    SpoolUpload(tmp_path, server).run()

    assert len(server.points()) == 2
    assert [record.getMessage().rpartition(" has ")[2] for record in caplog.records] == ["1 unreadable lines"]


def test_what_is_refused_costs_its_batch_once_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, server = Spool(tmp_path / "spool", 1), ListServer()
    upload = SpoolUpload(tmp_path, server)
    for step in range(1, 4):
        spool.step(step, {"train/acc@1": 1.0, "train/loss": 1.0})
        upload.run()

    assert [(point.key, point.step) for point in server.points()] == [("train/loss", step) for step in range(1, 4)]
    assert server.batches == [3, 1, 1, 1, 2, 2]  # with the tag that moves the cursor
    assert [record.getMessage() for record in caplog.records] == [
        "the tracking server refuses point train/acc@1, which the spool keeps: bad name"
    ]


def test_points_whose_request_failed_are_sent_by_the_next_pass(tmp_path: Path) -> None:
    """What the run has of a step is known from the server, or from an answer; a request alone says nothing."""
    spool, server = spool_with(tmp_path, steps=1), ListServer()
    upload = SpoolUpload(tmp_path, server)
    upload.run()
    spool.step(2, {"train/metric-0": 2.0})
    server.failure = UnavailableError("503")
    with pytest.raises(UnavailableError):
        upload.run()
    server.failure = None

    upload.run()

    assert [point.step for point in server.points()] == [1, 2]


def test_infinities_become_not_a_number_and_a_tag(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 3)
    spool.step(7, {"train/loss": -math.inf, "train/grad_norm": math.nan})
    server = ListServer()

    SpoolUpload(tmp_path, server).run()

    assert [(point.key, repr(point.value)) for point in server.points()] == [
        ("train/grad_norm", "nan"),
        ("train/loss", "nan"),
    ]
    assert server.shown_tags() == {"unimrg.nonfinite.train/loss": "-inf at step 7, attempt 3"}


def test_files_that_cannot_be_sent_do_not_hold_up_the_points(tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"png")
    spool = Spool(tmp_path / "spool", 1)
    spool.artifact(picture, "results")
    spool.step(1, {"train/loss": 1.0})
    server = ListServer()
    server.files_fail = True
    upload = SpoolUpload(tmp_path, server)

    with pytest.raises(UnavailableError):
        upload.run()
    assert len(server.points()) == 1 and upload.remaining() == 1
    server.files_fail = False
    picture.unlink()  # the spool has its own copy
    SpoolUpload(tmp_path, server).run()

    assert server.files == ["results/grid.png"]


def test_a_record_cannot_send_files_from_outside_the_spool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text("x")
    segment = tmp_path / "spool/attempt-1/segment-000001-00000000.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text('{"ts":1,"attempt":1,"file":"../secret","folder":""}\n')
    server = ListServer()

    SpoolUpload(tmp_path, server).run()

    assert server.files == []
    assert "the file secret is missing" in caplog.text


def test_a_run_that_was_made_too_late_is_closed_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request hung, and `finish` made a run and closed it; by its start and id the late one would be the oldest."""
    runs: dict[str, Any] = {}
    over: list[bool] = []

    def make(name: str, status: str) -> Any:
        info = SimpleNamespace(run_id=name, start_time=0, experiment_id="1", lifecycle_stage="active", status=status)
        runs[name] = SimpleNamespace(info=info, data=SimpleNamespace(tags={}, params={}))
        return runs[name]

    def create(*_: Any, **__: Any) -> Any:
        make("b", "FINISHED")
        over.append(True)
        return make("a", "RUNNING")

    def raise_if_stopped() -> None:
        if over:
            raise UnavailableError("stopped")

    server: Any = SimpleNamespace(
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="1", lifecycle_stage="active", tags={}),
        set_experiment_tag=lambda *_: None,
        search_runs=lambda *_, **__: list(runs.values()),
        create_run=create,
        set_tag=lambda name, key, value: runs[name].data.tags.update({key: value}),
        set_terminated=lambda name, status: setattr(runs[name].info, "status", status),
    )
    late, next_one = MlflowRun(SETTINGS, raise_if_stopped), MlflowRun(SETTINGS)
    for run in (late, next_one):
        monkeypatch.setattr(run, "_connection", server)
    with pytest.raises(UnavailableError, match="stopped"):
        late.connect(0)
    assert {name: run.info.status for name, run in runs.items()} == {"a": "KILLED", "b": "FINISHED"}
    next_one.connect(0)
    assert next_one.run_id == "b"
    runs.clear()
    with pytest.raises(UnavailableError, match="stopped"):
        late.connect(0)
    assert runs == {}  # an uploader that was given up makes none


def train(folder: Path, server: ListServer, attempt: int, resume: int, last: int, loss: float = 1.0) -> Spool:
    """Record the steps after `resume` as an attempt whose clock and speed are its own, and upload them."""
    spool = Spool(folder / "spool", attempt, lambda: 1000.0 * attempt)
    spool.begin(resume)
    for step in range(resume + 1, last + 1):
        spool.step(step, {"train/loss": loss / step, "perf/step_s": float(attempt)})
    SpoolUpload(folder, server).run()
    return spool


def lose_machine(spool: Spool, store: DictionaryStore, folder: Path) -> None:
    """Keep what the store has of the spool and restore it in an empty folder."""
    copy_segments(spool.folder, spool.close_segment(), store)
    restore_segments(store, folder / "spool")


def test_steps_trained_again_on_another_machine_stand_once(tmp_path: Path, dictionary_store: DictionaryStore) -> None:
    """The first machine is lost after step 8, with its last commit at step 5."""
    server = ListServer()
    at_commit = train(tmp_path / "a", server, 1, 0, 5)
    lose_machine(at_commit, dictionary_store, tmp_path / "b")
    at_commit.step(6, {"train/loss": 1 / 6, "perf/step_s": 1.0})
    at_commit.step(7, {"train/loss": 1 / 7, "perf/step_s": 1.0})
    SpoolUpload(tmp_path / "a", server).run()

    second = train(tmp_path / "b", server, 2, 5, 12)
    lose_machine(second, dictionary_store, tmp_path / "c")
    SpoolUpload(tmp_path / "c", server).run()

    expected = [(step, 1 / step, 1_000_000 if step <= 7 else 2_000_000) for step in range(1, 13)]
    assert [
        (point.step, point.value, point.timestamp) for point in server.points() if point.key == "train/loss"
    ] == expected
    assert len(server.points()) == 24


def test_a_step_that_comes_to_another_result_keeps_its_first_value(tmp_path: Path) -> None:
    server = ListServer()
    train(tmp_path / "a", server, 1, 0, 3)
    train(tmp_path / "b", server, 2, 1, 4, loss=2.0)

    losses = [point.value for point in server.points() if point.key == "train/loss"]
    assert losses == [1.0, 1 / 2, 1 / 3, 2 / 4]


def test_a_score_that_changes_back_is_sent_again(tmp_path: Path) -> None:
    server = ListServer()
    clock = itertools.count(1)
    for attempt, scores in enumerate([(71.0,), (71.0, 72.0, 72.0, 71.0)], start=1):
        spool = Spool(tmp_path / "spool", attempt, lambda: float(next(clock)))
        for score in scores:
            spool.step(10, {"eval/spatial/acc": score})
        SpoolUpload(tmp_path, server).run()

    sent = sorted(server.points(), key=lambda point: point.timestamp)
    assert [point.value for point in sent] == [71.0, 72.0, 71.0]


def test_scores_of_an_older_checkpoint_are_sent_too(tmp_path: Path) -> None:
    """The newest was found damaged after it had been evaluated."""
    server = ListServer()
    for attempt, step in ((1, 10), (2, 5)):
        Spool(tmp_path / "spool", attempt).step(step, {"eval/spatial/acc": 70.0 + step})
        SpoolUpload(tmp_path, server).run()

    assert [(point.step, point.value) for point in server.points()] == [(5, 75.0), (10, 80.0)]


def test_another_machine_asks_the_server_how_far_it_is(tmp_path: Path, dictionary_store: DictionaryStore) -> None:
    server = ListServer()
    lose_machine(train(tmp_path / "a", server, 1, 0, 5), dictionary_store, tmp_path / "b")
    server.batches.clear()
    later = SpoolUpload(tmp_path / "b", server)
    later.run()
    assert (later.remaining(), later.sent, server.batches) == (0, 0, [])


def test_no_password_of_the_address_is_shown_or_stored(tmp_path: Path) -> None:
    settings = TrackingSettings("https://me:hunter2@server/mlflow", "unimrg", "run", "uid-1", 1)
    spool_with(tmp_path, steps=1)
    server = ListServer()
    server.settings = settings

    SpoolUpload(tmp_path, server).run()

    stored = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in stored + repr(settings)
    assert json.loads((tmp_path / "mlflow.json").read_text())["uri"] == "https://server/mlflow"
