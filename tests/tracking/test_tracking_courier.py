"""What the shipper does with each kind of answer, against a server made of lists."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from unimrg_api.errors import UserError
from unimrg_trainer.tracking.courier import Courier
from unimrg_trainer.tracking.remote_run import Point, RefusedError, UnauthorisedError, UnavailableError
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings, tracking_uri
from unimrg_trainer.tracking.shipper import Backoff, Shipper
from unimrg_trainer.tracking.spool import Spool

SETTINGS = TrackingSettings("http://server", "unimrg", "run", "uid-1", 1)


class ListServer:
    """Takes everything except metric keys with an `@`; its run can be deleted, and it can be made to fail."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.url = ""
        self.runs: dict[str, set[tuple[str, str, int, int]]] = {}
        self.batches: list[int] = []
        self.tags: dict[str, str] = {}
        self.files: list[str] = []
        self.statuses: list[str] = []
        self.deleted = False
        self.files_fail = False
        self.failure: Exception | None = None
        self.entered = threading.Event()
        self.release: threading.Event | None = None

    def connect(self, known_run_id: str | None, start_ms: int) -> str:
        self._answer()
        if known_run_id not in self.runs or self.deleted:
            known_run_id = f"run-{len(self.runs)}"
            self.runs[known_run_id] = set()
            self.deleted = False
        self.run_id = known_run_id
        return known_run_id

    def is_usable(self) -> bool:
        return not self.deleted

    def log_points(self, points: Sequence[Point]) -> None:
        self._answer()
        self.batches.append(len(points))
        if self.deleted or any("@" in point.key for point in points):
            raise RefusedError("bad name")
        assert self.run_id is not None
        self.runs[self.run_id] |= {(p.key, repr(p.value), p.timestamp, p.step) for p in points}

    def log_params(self, attempt: int, params: Mapping[str, str]) -> None:
        self._answer()

    def log_tags(self, tags: Sequence[tuple[str, str]]) -> None:
        self._answer()
        self.tags.update(tags)

    def log_file(self, path: Path, folder: str) -> None:
        self._answer()
        if self.files_fail:
            raise UnavailableError("no artifact store")
        self.files.append(f"{folder}/{path.name}")

    def set_running(self) -> None:
        self.statuses.append("RUNNING")

    def set_terminated(self, status: TerminalStatus, end_ms: int) -> None:
        self.statuses.append(status)

    def points(self) -> list[tuple[str, str, int, int]]:
        assert self.run_id is not None
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

    Courier(tmp_path, SETTINGS, server).ship()

    assert len(server.points()) == 2100
    assert max(server.batches) <= 1000


def test_acknowledged_lines_are_not_sent_again(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=3)
    server = ListServer()
    Courier(tmp_path, SETTINGS, server).ship()
    server.batches.clear()
    spool.step(4, {"train/loss": 4.0})

    Courier(tmp_path, SETTINGS, server).ship()

    assert server.batches == [1]


def test_one_refused_point_is_put_aside_and_the_others_arrive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = spool_with(tmp_path, steps=100)
    for step in (101, 102):
        spool.step(step, {"train/a@b": 1.0, "train/good": 2.0})
    server = ListServer()
    courier = Courier(tmp_path, SETTINGS, server)

    courier.ship()

    assert len(server.points()) == 102
    rejected = [json.loads(line) for line in (tmp_path / "spool/rejected.jsonl").read_text().splitlines()]
    assert ["a@b" in entry["item"] for entry in rejected] == [True, True]
    assert len(caplog.records) == 1  # said once, not once per point
    assert courier.ledger.remaining() == 0


def test_a_line_that_is_still_being_written_is_left_for_the_next_pass(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=2)
    segment = tmp_path / "spool" / spool.close_segment()[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    server = ListServer()
    courier = Courier(tmp_path, SETTINGS, server)

    courier.ship()
    assert len(server.points()) == 1
    segment.write_bytes(whole)
    courier.ship()

    assert len(server.points()) == 2
    assert not (tmp_path / "spool/rejected.jsonl").exists()


def test_a_damaged_line_is_put_aside_once(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=1)
    with (tmp_path / "spool" / spool.close_segment()[0]).open("a") as file:
        file.write("not json\n")
    server = ListServer()

    Courier(tmp_path, SETTINGS, server).ship()
    Courier(tmp_path, SETTINGS, server).ship()

    assert (tmp_path / "spool/rejected.jsonl").read_text().count("not json") == 1
    assert len(server.points()) == 1


def test_a_deleted_run_is_replaced_and_gets_everything(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, steps=5)
    server = ListServer()
    courier = Courier(tmp_path, SETTINGS, server)
    courier.ship()
    server.deleted = True
    spool.step(6, {"train/metric-0": 6.0})

    with pytest.raises(UnavailableError):
        courier.ship()
    courier.ship()

    assert server.run_id == "run-1"
    assert [point[3] for point in server.points()] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "spool/rejected.jsonl").exists()


def test_another_server_gets_everything_from_the_start(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=5)
    Courier(tmp_path, SETTINGS, ListServer()).ship()
    other = ListServer()

    Courier(tmp_path, TrackingSettings("http://other", "unimrg", None, "uid-1", 1), other).ship()

    assert len(other.points()) == 5


def test_infinities_become_not_a_number_and_a_tag(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 3)
    spool.step(7, {"train/loss": -math.inf, "train/grad_norm": math.nan})
    server = ListServer()

    Courier(tmp_path, SETTINGS, server).ship()

    assert [(point[0], point[1]) for point in server.points()] == [
        ("train/grad_norm", "nan"),
        ("train/loss", "nan"),
    ]
    assert server.tags == {"unimrg.nonfinite.train/loss": "-inf at step 7, attempt 3"}


def test_files_that_cannot_be_sent_do_not_hold_up_the_points(tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"png")
    spool = Spool(tmp_path / "spool", 1)
    spool.artifact(picture, "results")
    spool.step(1, {"train/loss": 1.0})
    server = ListServer()
    server.files_fail = True
    courier = Courier(tmp_path, SETTINGS, server)

    with pytest.raises(UnavailableError):
        courier.ship()
    assert len(server.points()) == 1 and courier.ledger.remaining() == 1
    server.files_fail = False
    picture.unlink()  # the spool has its own copy
    Courier(tmp_path, SETTINGS, server).ship()

    assert server.files == ["results/grid.png"]


def test_a_record_cannot_send_files_from_outside_the_spool(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    segment = tmp_path / "spool/attempt-1/segment-000001-00000000.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text('{"op":"artifact","ts":1,"attempt":1,"path":"../secret","folder":""}\n')
    server = ListServer()

    Courier(tmp_path, SETTINGS, server).ship()

    assert server.files == []


def test_refused_credentials_keep_everything_and_are_reported_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool_with(tmp_path, steps=3)
    server = ListServer()
    server.failure = UnauthorisedError("401")
    shipper = Shipper(tmp_path, SETTINGS, remote=server, backoff=Backoff(0.01, 0.02))
    shipper.start()
    server.entered.wait(10)
    report = shipper.stop(0.5)

    assert report.remaining == 3
    assert shipper.health()["tracker/auth_failed"] == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_stopping_does_not_wait_for_a_server_that_hangs(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=3)
    server = ListServer()
    server.release = threading.Event()
    shipper = Shipper(tmp_path, SETTINGS, remote=server)
    shipper.start()
    assert server.entered.wait(10)

    report = shipper.stop(0.1)  # would hang here if it waited
    server.release.set()

    assert report.remaining == 3 and report.run_id is None


def test_an_unexpected_error_does_not_end_the_shipping(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=3)
    server = ListServer()
    server.failure = KeyError("a fault of ours")
    shipper = Shipper(tmp_path, SETTINGS, remote=server, backoff=Backoff(0.01, 0.02))
    shipper.start()
    assert server.entered.wait(10)
    server.failure = None

    assert shipper.stop(10).remaining == 0


def test_only_one_shipper_works_on_a_folder(tmp_path: Path) -> None:
    spool_with(tmp_path, steps=3)
    first, second = ListServer(), ListServer()
    first.release = threading.Event()
    working = Shipper(tmp_path, SETTINGS, remote=first)
    working.start()
    assert first.entered.wait(10)
    waiting = Shipper(tmp_path, SETTINGS, remote=second)
    waiting.start()

    waiting.stop(0.3)
    first.release.set()

    assert not second.entered.is_set()
    assert working.stop(10).remaining == 0


def test_the_back_off_doubles_up_to_a_minute_with_jitter() -> None:
    backoff = Backoff(generator=random.Random(1))

    waits = [backoff.next() for _ in range(2000)]

    for index, wait in enumerate(waits):
        longest = min(60.0, 2.0 ** min(index, 20))
        assert longest / 2 <= wait <= longest
    assert len(set(waits)) > 1900
    backoff.reset()
    assert backoff.next() <= 1.0


def test_no_password_of_the_address_is_shown_or_stored(tmp_path: Path) -> None:
    settings = TrackingSettings("https://me:hunter2@server/mlflow", "unimrg", None, "uid-1", 1)
    spool_with(tmp_path, steps=1)

    Courier(tmp_path, settings, ListServer()).ship()

    stored = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "hunter2" not in stored + repr(settings)
    assert json.loads((tmp_path / "mlflow.json").read_text())["uri"] == "https://server/mlflow"


@pytest.mark.parametrize("uid", ["", "a'b", 'a"b'])
def test_a_uid_that_cannot_be_searched_for_is_refused(uid: str) -> None:
    with pytest.raises(UserError, match="uid"):
        TrackingSettings("http://server", "unimrg", None, uid, 1)


def test_without_a_server_the_data_base_lies_in_the_run(tmp_path: Path) -> None:
    assert tracking_uri(None, "file:///runs/a%20b", tmp_path) == "sqlite:////runs/a b/mlflow.db"
    assert tracking_uri(None, "s3://bucket/run", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("http://server", "file:///runs/a", tmp_path) == "http://server"
