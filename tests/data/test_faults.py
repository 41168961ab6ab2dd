"""What becomes of reading when the storage fails, on a real S3 server: each fault has its outcome, none is silent."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.s3_answers import answering
from tests.support.s3_server import S3Server
from tests.support.s3_stores import Place
from tests.support.tcp_gate import TcpGate
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.local_cache import LocalCache
from unimrg_trainer.data.read_ahead import ReadAhead
from unimrg_trainer.data.shards import Extent, read_extent
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.preparation import items
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.scenes import generate
from unimrg_trainer.storage import patient, s3, s3_client
from unimrg_trainer.storage.base import StorageError
from unimrg_trainer.storage.patient import PatientStore, Waits

SAMPLES, SIZE, SEED, PER_SHARD = 12, 64, 3, 3
SOURCES = [SourceSpec.model_validate({"scenes": {"train": SAMPLES, "heldOut": 1, "imageSize": SIZE, "seed": SEED}})]
OBJECTIVES = [objective(name) for name in ("Pixel", "Depth", "Segmentation")]
ROWS = range(SAMPLES)


@dataclass
class Surroundings:
    """What a fault may change."""

    place: Place
    gate: TcpGate
    bucket: Any
    """A client of the server itself."""
    shard: str
    """Key, within the bucket, of the shard with the first samples."""
    keys_file: Path
    server: S3Server
    away: threading.Event = field(default_factory=threading.Event)

    def rewrite(self, change: Callable[[bytes], bytes]) -> None:
        bucket = self.place.uri.split("/")[2]
        content = self.bucket.get_object(Bucket=bucket, Key=self.shard)["Body"].read()
        self.bucket.put_object(Bucket=bucket, Key=self.shard, Body=change(content))

    def write_keys(self, *, expired: bool = False) -> None:
        token = "aws_session_token = expired\n" if expired else ""
        keys = f"aws_access_key_id = {self.server.access_key}\naws_secret_access_key = {self.server.secret_key}\n"
        self.keys_file.write_text(f"[default]\n{keys}{token}")


@contextmanager
def damaged(around: Surroundings, change: Callable[[bytes], bytes]) -> Iterator[None]:
    around.rewrite(change)
    yield


@contextmanager
def missing(around: Surroundings) -> Iterator[None]:
    around.bucket.delete_object(Bucket=around.place.uri.split("/")[2], Key=around.shard)
    yield


@contextmanager
def broken_off(around: Surroundings, *, silently: bool) -> Iterator[None]:
    around.gate.break_answers(2, after=2000, silently=silently)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(s3_client, "READ_SECONDS", 1.0)
        s3_client.forget(s3.connect(around.place.at(around.gate).storage))
        yield
    assert around.gate.broken == 2


@contextmanager
def outage(around: Surroundings) -> Iterator[None]:
    """Nobody listens until the reader has said that it waits."""
    around.gate.close()
    around.away.set()
    yield


@contextmanager
def expired(around: Surroundings, *, renewed: bool) -> Iterator[None]:
    """The service refuses the token that the file has; `renewed`: then another process replaces it."""

    def answer(request: Any, **_: Any) -> Any:
        if "X-Amz-Security-Token" not in request.headers:
            return None
        if renewed:
            around.write_keys()
        return refused(request, 400, "ExpiredToken")

    connect, seen = s3.connect, list[Any]()

    def watched(settings: StorageSpec) -> Any:
        client = connect(settings)
        if client not in seen:
            seen.append(client)
            client.meta.events.register_last("before-send.s3.GetObject", answer)
        return client

    around.write_keys(expired=True)
    s3_client.forget(connect(around.place.at(around.gate).storage))  # it has read the file before
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(s3, "connect", watched)
        yield
    assert len(seen) == 2


def refused(request: Any, status: int, code: str) -> Any:
    from botocore.awsrequest import AWSResponse

    response: Any = AWSResponse(request.url, status, {}, None)  # type: ignore[arg-type]
    response._content = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
    return response


def answers(around: Surroundings, status: int, code: str, times: int = 1000) -> AbstractContextManager[Any]:
    return answering(around.place.at(around.gate), "GetObject", status, code, times=times)


@contextmanager
def flipped_once(around: Surroundings) -> Iterator[None]:
    """The first shard's bytes are wrong in one reply, and right in the store."""
    flips = [True]
    get = s3.S3Store.get

    def flipping(store: s3.S3Store, key: str, offset: int = 0, length: int | None = None) -> bytes:
        content = get(store, key, offset, length)
        if key.endswith("train-000000.tar") and flips:
            flips.clear()
            return flip(content, len(content) - 1)
        return content

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(s3.S3Store, "get", flipping)
        yield


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def in_first_map(content: bytes) -> int:
    """The place of the last content of the first sample."""
    header = re.search(rb"train-00000001\.json", content)
    assert header is not None
    return len(content[: header.start()].rstrip(b"\0")) - 2


Fault = Callable[[Surroundings], AbstractContextManager[Any]]
RIGHT, CREDENTIALS = (0, None), ExitCode.CREDENTIALS
TABLE: dict[str, tuple[Fault, int | ExitCode, str]] = {
    "nothing": (lambda _: nullcontext(), 0, ""),
    "5xx, twice": (partial(answers, status=500, code="InternalError", times=2), 0, ""),
    "refused as too many, for a while": (partial(answers, status=503, code="SlowDown", times=9), 0, ""),
    "connections reset": (partial(broken_off, silently=False), 0, ""),
    "replies that fall silent": (partial(broken_off, silently=True), 0, ""),
    "nobody listens for a while": (outage, 0, ""),
    "a byte flipped on its way": (flipped_once, 0, ""),
    "a byte flipped in the store": (
        partial(damaged, change=lambda content: flip(content, in_first_map(content))), 1, r"train-00000000.*checksum",
    ),
    "a truncated object": (
        partial(damaged, change=lambda content: content[: in_first_map(content)]),
        PER_SHARD,
        "train-0000000.*ends after",
    ),
    "a missing object": (missing, ExitCode.INPUT_MISSING, r"train-000000\.tar is named by the manifest"),
    "credentials that expired and are renewed": (partial(expired, renewed=True), 0, ""),
    "credentials that expired": (partial(expired, renewed=False), ExitCode.CREDENTIALS, "ExpiredToken"),
    "a service that refuses checksums": (
        partial(answers, status=501, code="NotImplemented"), ExitCode.CONFIGURATION, "WhenRequired",
    ),
    "5xx, for longer than the patience": (
        partial(answers, status=500, code="InternalError"), ExitCode.UNAVAILABLE, "patienceSeconds",
    ),
}  # fmt: skip


@pytest.fixture
def around(
    s3_place: Place, s3_gate: TcpGate, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Surroundings:
    monkeypatch.setattr(items, "ITEMS_PER_SHARD", PER_SHARD)
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    for name, value in {"FIRST_PAUSE": 0.05, "LONGEST_PAUSE": 0.2, "SLOW_SECONDS": 0.2, "TICK_SECONDS": 0.05}.items():
        monkeypatch.setattr(patient, name, value)
    prepare(SOURCES, tmp_path, s3_place.store("data"), lambda *_: None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    client = s3_server.client()
    prefix = s3_place.uri.split("/", 3)[3]
    listed = client.list_objects_v2(Bucket=s3_place.uri.split("/")[2], Prefix=f"{prefix}/data/")["Contents"]
    (shard,) = (entry["Key"] for entry in listed if entry["Key"].endswith("train-000000.tar"))
    found = Surroundings(s3_place, s3_gate, client, shard, tmp_path / "keys", s3_server)
    found.write_keys()
    return found


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_each_fault_has_its_outcome(around: Surroundings, name: str, cached: bool, tmp_path: Path) -> None:
    fault, outcome, said = TABLE[name]
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if text and around.away.is_set():
            around.away.clear()
            around.gate.open()

    patience = 1.5 if outcome is ExitCode.UNAVAILABLE else 20
    store = PatientStore(around.place.through(around.gate, "data"), patience, Waits(show=show))
    reader = RowReader(Dataset.open(store, "train"), seed=1)
    bring = LocalCache(tmp_path / "cache", 1 << 30).read if cached else read_extent
    with fault(around):
        if isinstance(outcome, ExitCode):
            with pytest.raises(UserError) as caught:
                read(reader, bring)
            assert caught.value.exit_code is outcome and re.search(said, str(caught.value)), caught.value
            return
        samples = read(reader, bring)
    substituted = [sample for sample in samples if sample.replaces]
    assert len(substituted) == outcome
    for row, sample in zip(ROWS, samples, strict=True):
        number = int(sample.key[-8:])
        scene = generate(SEED, number, SIZE)
        np.testing.assert_array_equal(sample.image, scene.image)
        np.testing.assert_array_equal(sample.maps["depth"], scene.depth)
        assert (number == reader.dataset.order("images", 1).record(row)) is not bool(sample.replaces)
        assert not sample.replaces or re.search(said, sample.replaces)
    if fault is outage:
        assert "waiting for storage" in shown[0] and not around.away.is_set()


def read(reader: RowReader, bring: Callable[[Extent], bytes]) -> list[Any]:
    """Read all rows as training does, in steps of four."""
    steps = [range(first, first + 4) for first in ROWS[::4]]
    found: list[Any] = []
    with ReadAhead(iter([reader.extents(OBJECTIVES, rows) for rows in steps]), read=bring) as ahead:
        for number, rows in enumerate(steps):
            with ahead.group(number) as group:
                samples = reader.read_together(OBJECTIVES, rows, group.read)
                found += [samples["images", row] for row in rows]
    return found


def test_a_reply_that_breaks_off_is_read_on_from_there(around: Surroundings) -> None:
    content = bytes(range(256)) * 20_000
    around.place.store().put("a", content)
    store = around.place.through(around.gate)
    store.get("a", 0, 1)
    around.gate.break_answers(1, after=3_000_000)
    with around.place.at(around.gate).counted() as requests:
        assert store.get("a", 100, len(content) - 100) == content[100:]
    starts = [int(re.findall(r"\d+", wanted)[0]) for _, wanted in requests.ranges]
    assert len(starts) == 2 and starts[0] == 100 and 1_000_000 < starts[1] < 3_000_000


def test_a_stop_request_ends_the_wait(around: Surroundings) -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    store = PatientStore(around.place.through(around.gate, "data"), 600, Waits(raise_if_stopped=stop))
    around.gate.close()
    with pytest.raises(Interrupted):
        store.list()


def test_a_wait_ticks_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that hangs ticks no longer than the patience lasts: then the watchdog finds it."""
    monkeypatch.setattr(patient, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(patient, "TICK_SECONDS", 0.01)
    ticked, over = threading.Event(), threading.Event()

    class Hanging:
        uri = "memory://"

        def get(self, *_: object) -> bytes:
            assert ticked.wait(10)
            raise StorageError("gone", exit_code=ExitCode.CREDENTIALS)

    waits = Waits(tick=ticked.set, show=lambda text: None if text else over.set())
    hanging: Any = Hanging()
    with pytest.raises(StorageError, match="gone"):
        PatientStore(hanging, 60, waits).get("a")
    assert over.wait(10)
