"""What the uploader does with each kind of answer, against a server made of lists."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.dictionary_store import DictionaryStore
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.tracking.errors import ActionRequiredError, RefusedError, UnavailableError, translate
from unimrg_trainer.tracking.mlflow_run import Item, MlflowRun, Point, Tag
from unimrg_trainer.tracking.segments import Record
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments
from unimrg_trainer.tracking.upload import SpoolUpload
from unimrg_trainer.tracking.uploader import Uploader

SETTINGS = TrackingSettings("http://server", "unimrg", "run", "uid-1", 1)


class ListServer(MlflowRun):
    """Takes everything except metric keys with an `@`; its run can be deleted, and it can be made to fail."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.runs: dict[str, set[tuple[str, str, int, int]]] = {}
        self.batches: list[int] = []
        self.tags: dict[str, str] = {}
        self.files: list[str] = []
        self.deleted = False
        self.files_fail = False
        self.failure: Exception | None = None
        self.status_failures: Iterator[Exception | None] = itertools.repeat(None)
        self.entered = threading.Event()
        self.release: threading.Event | None = None

    def connect(self, known_run_id: str | None, start_ms: int) -> str:
        self._answer()
        if self.deleted or not self.runs:
            self.runs[f"run-{len(self.runs)}"] = set()
            self.deleted = False
        self.run_id = max(self.runs)
        return self.run_id

    def is_usable(self) -> bool:
        return not self.deleted

    def history(self, key: str, first_step: int) -> dict[int, float]:
        found = sorted((point for point in self.runs[self.run_id] if point[0] == key), key=lambda point: point[2])
        return {step: float(value) for _, value, _, step in found if step >= first_step}

    def log(self, items: Sequence[Item]) -> None:
        self._answer()
        self.batches.append(len(items))
        if self.deleted or any("@" in item.key for item in items):
            raise RefusedError("bad name")
        points = [item for item in items if isinstance(item, Point)]
        self.runs[self.run_id] |= {(p.key, repr(p.value), p.timestamp, p.step) for p in points}
        self.tags.update(item for item in items if isinstance(item, Tag))

    def log_object(self, record: Record, path: Path | None) -> None:
        self._answer()
        if self.files_fail:
            raise UnavailableError("no artifact store")
        assert path is not None
        self.files.append(f"{record['folder']}/{path.name}")

    def set_status(self, status: TerminalStatus | None, end_ms: int) -> None:
        if (failure := next(self.status_failures)) is not None:
            raise failure

    def points(self) -> list[tuple[str, str, int, int]]:
        return sorted(self.runs[self.run_id], key=lambda point: (point[0], point[3]))

    def _answer(self) -> None:
        self.entered.set()
        if self.release is not None:
            self.release.wait()
        if self.failure is not None:
            raise self.failure


def spool_with(run_dir: Path, steps: int, metrics: int = 1) -> Spool:
    spool = Spool(run_dir / "spool", 1)
    for step in range(1, steps + 1):
        spool.step(step, {f"train/metric-{index}": float(step) for index in range(metrics)})
    return spool


def test_no_batch_is_larger_than_the_server_takes(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=70, metrics=30)
    server = ListServer()

    SpoolUpload(tmp_path, SETTINGS, server).run()

    assert len(server.points()) == 2100
    assert max(server.batches) <= 1000


def test_a_line_that_is_still_being_written_is_left_for_the_next_pass(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=2)
    segment = tmp_path / "spool" / spool.close_segment()[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    server = ListServer()
    upload = SpoolUpload(tmp_path, SETTINGS, server)

    upload.run()
    assert len(server.points()) == 1
    segment.write_bytes(whole)
    upload.run()

    assert len(server.points()) == 2
    assert not (tmp_path / "spool/rejected.jsonl").exists()


def test_a_damaged_line_is_put_aside_once(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=1)
    with (tmp_path / "spool" / spool.close_segment()[0]).open("a") as file:
        file.write("not json\n")
    server = ListServer()

    SpoolUpload(tmp_path, SETTINGS, server).run()
    SpoolUpload(tmp_path, SETTINGS, server).run()

    assert (tmp_path / "spool/rejected.jsonl").read_text().count("not json") == 1
    assert len(server.points()) == 1


def test_another_server_gets_everything_from_the_start(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=5)
    SpoolUpload(tmp_path, SETTINGS, ListServer()).run()
    other = ListServer()

    SpoolUpload(tmp_path, TrackingSettings("http://other", "unimrg", "run", "uid-1", 1), other).run()

    assert len(other.points()) == 5


def test_infinities_become_not_a_number_and_a_tag(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 3)
    spool.step(7, {"train/loss": -math.inf, "train/grad_norm": math.nan})
    server = ListServer()

    SpoolUpload(tmp_path, SETTINGS, server).run()

    assert [(point[0], point[1]) for point in server.points()] == [("train/grad_norm", "nan"), ("train/loss", "nan")]
    assert server.tags == {"unimrg.nonfinite.train/loss": "-inf at step 7, attempt 3"}


def test_files_that_cannot_be_sent_do_not_hold_up_the_points(tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"png")
    spool = Spool(tmp_path / "spool", 1)
    spool.artifact(picture, "results")
    spool.step(1, {"train/loss": 1.0})
    server = ListServer()
    server.files_fail = True
    upload = SpoolUpload(tmp_path, SETTINGS, server)

    with pytest.raises(UnavailableError):
        upload.run()
    assert len(server.points()) == 1 and upload.remaining() == 1
    server.files_fail = False
    picture.unlink()  # the spool has its own copy
    SpoolUpload(tmp_path, SETTINGS, server).run()

    assert server.files == ["results/grid.png"]


def test_a_record_cannot_send_files_from_outside_the_spool(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    segment = tmp_path / "spool/attempt-1/segment-000001-00000000.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text('{"ts":1,"attempt":1,"file":"../secret","folder":""}\n')
    server = ListServer()

    SpoolUpload(tmp_path, SETTINGS, server).run()

    assert server.files == []
    assert "the file is missing" in (tmp_path / "spool/rejected.jsonl").read_text()


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


def test_an_uploader_that_was_given_up_makes_no_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`finish` may have taken over while this one waited for the data base to be made."""
    server: Any = SimpleNamespace(
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="1", lifecycle_stage="active", tags={}),
        set_experiment_tag=lambda *_: None,
        search_runs=lambda *_, **__: [],
    )
    run = MlflowRun(SETTINGS, may_continue=lambda: False)
    monkeypatch.setattr(run, "_connection", server)
    with pytest.raises(UnavailableError, match="stopped"):
        run.connect(None, 0)


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

    server: Any = SimpleNamespace(
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="1", lifecycle_stage="active", tags={}),
        set_experiment_tag=lambda *_: None,
        search_runs=lambda *_, **__: list(runs.values()),
        create_run=create,
        set_tag=lambda name, key, value: runs[name].data.tags.update({key: value}),
        set_terminated=lambda name, status: setattr(runs[name].info, "status", status),
        get_run=lambda name: runs[name],
        get_experiment=lambda _: SimpleNamespace(name="e"),
    )
    late, next_one = MlflowRun(SETTINGS, may_continue=lambda: not over), MlflowRun(SETTINGS)
    for run in (late, next_one):
        monkeypatch.setattr(run, "_connection", server)
    with pytest.raises(UnavailableError, match="stopped"):
        late.connect(None, 0)
    assert {name: run.info.status for name, run in runs.items()} == {"a": "KILLED", "b": "FINISHED"}
    assert next_one.connect(None, 0) == "b"


def train(folder: Path, server: ListServer, attempt: int, resume: int, last: int, loss: float = 1.0) -> Spool:
    """Record the steps after `resume` as an attempt whose clock and speed are its own, and upload them."""
    spool = Spool(folder / "spool", attempt, lambda: 1000.0 * attempt)
    spool.begin(resume)
    for step in range(resume + 1, last + 1):
        spool.step(step, {"train/loss": loss / step, "perf/step_s": float(attempt)})
    SpoolUpload(folder, SETTINGS, server).run()
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
    SpoolUpload(tmp_path / "a", SETTINGS, server).run()

    second = train(tmp_path / "b", server, 2, 5, 12)
    lose_machine(second, dictionary_store, tmp_path / "c")
    SpoolUpload(tmp_path / "c", SETTINGS, server).run()

    expected = [(step, repr(1 / step), 1_000_000 if step <= 7 else 2_000_000) for step in range(1, 13)]
    assert [(step, value, ts) for key, value, ts, step in server.points() if key == "train/loss"] == expected
    assert len(server.points()) == 24


def test_a_step_with_another_result_elsewhere_gets_the_later_value_too(tmp_path: Path) -> None:
    server = ListServer()
    train(tmp_path / "a", server, 1, 0, 3)
    train(tmp_path / "b", server, 2, 2, 3, loss=2.0)

    values = [(value, ts) for key, value, ts, step in server.points() if (key, step) == ("train/loss", 3)]
    assert sorted(values, key=lambda point: point[1])[-1] == (repr(2 / 3), 2_000_000)
    assert len(server.points()) == 8  # value and speed of step 3 twice


def test_a_score_that_changes_back_is_sent_again(tmp_path: Path) -> None:
    server = ListServer()
    clock = itertools.count(1)
    for attempt, scores in enumerate([(71.0,), (71.0, 72.0, 72.0, 71.0)], start=1):
        spool = Spool(tmp_path / "spool", attempt, lambda: float(next(clock)))
        for score in scores:
            spool.step(10, {"eval/spatial/acc": score})
        SpoolUpload(tmp_path, SETTINGS, server).run()

    sent = sorted(server.points(), key=lambda point: point[2])
    assert [value for _, value, _, _ in sent] == ["71.0", "72.0", "71.0"]


def test_what_was_acknowledged_is_not_sent_by_another_machine(
    tmp_path: Path, dictionary_store: DictionaryStore
) -> None:
    server = ListServer()
    lose_machine(train(tmp_path / "a", server, 1, 0, 5), dictionary_store, tmp_path / "b")
    server.batches.clear()
    later = SpoolUpload(tmp_path / "b", SETTINGS, server)
    assert later.remaining() == 0
    later.run()
    assert server.batches == []


def test_no_password_of_the_address_is_shown_or_stored(tmp_path: Path) -> None:
    settings = TrackingSettings("https://me:hunter2@server/mlflow", "unimrg", "run", "uid-1", 1)
    spool_with(tmp_path, steps=1)

    SpoolUpload(tmp_path, settings, ListServer()).run()

    stored = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in stored + repr(settings)
    assert json.loads((tmp_path / "mlflow.json").read_text())["uri"] == "https://server/mlflow"
