"""Progress is pulled from the right pods, within narrow limits, and a job is reconciled only when it changed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.operator.raw_objects import Raw, pod_object, running
from unimrg_api import cluster
from unimrg_api.progress import Progress
from unimrg_operator.app.progress_poller import ProgressPoller, Target, fetch, targets
from unimrg_operator.app.world import JobKey, prune
from unimrg_trainer.launch.progress_server import serve_progress

TINY = ("lab", "tiny")
OK = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@contextmanager
def raw_server(*parts: bytes, pause: float = 0.0) -> Iterator[int]:
    """A server that answers each connection with these parts, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(4096)
                        for part in parts:
                            connection.sendall(part)
                            time.sleep(pause)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def test_the_launchers_server_is_read_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    progress = Progress(stage="train", step=120, total_steps=400, losses={"Pixel": 0.5}, updated=1.0)
    (tmp_path / "progress.json").write_text(progress.to_json())
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        assert port is not None
        assert Progress.parse(fetch("127.0.0.1", port)) == progress
    with raw_server(OK[:10], OK[10:], b'{"st', b'ep": 7}') as port:
        assert fetch("127.0.0.1", port) == b'{"step": 7}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n{}",
        b"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/latest/\r\n\r\n{}",
        b"SSH-2.0-OpenSSH 200\r\n\r\n{}",
        OK + b"x" * 9000,
    ],
)
def test_anything_but_a_small_success_is_an_error(answer: bytes) -> None:
    with raw_server(answer) as port, pytest.raises(OSError):
        fetch("127.0.0.1", port)


def test_a_pod_that_answers_byte_by_byte_is_given_up_in_time() -> None:
    started = time.monotonic()
    with raw_server(*[b"x"] * 100, pause=0.05) as port, pytest.raises(OSError):
        fetch("127.0.0.1", port, seconds=0.3)
    assert time.monotonic() - started < 2.0


def test_the_running_pod_of_node_0_is_asked_at_its_progress_port() -> None:
    pod = prune(pod_object())
    assert targets([(TINY, pod)]) == [Target(TINY, pod["metadata"]["uid"], "10.1.2.3", 21001)]
    for ip in ("fd00::7", "127.0.0.3"):
        assert [target.ip for target in targets([(TINY, pod_object(status=running(ip)))])] == [ip]


def _with_container(**change: object) -> Raw:
    pod = pod_object()
    pod["spec"]["containers"][0] |= change
    return pod


def _with_stage(stage: str) -> Raw:
    pod = pod_object()
    pod["metadata"]["labels"][cluster.STAGE_LABEL] = stage
    return pod


@pytest.mark.parametrize(
    "pod",
    [
        pod_object(rank=1),
        pod_object(status={**running(), "phase": "Pending"}),
        pod_object(status={**running(), "podIP": ""}),
        pod_object(status=running("metadata.internal")),
        pod_object(status=running("169.254.169.254")),
        pod_object(status=running("::ffff:169.254.169.254")),
        pod_object(status=running("fe80::1")),
        pod_object(deletionTimestamp="2026-11-24T10:00:00Z"),
        _with_container(ports=[{"name": "http", "containerPort": 80}]),
        _with_container(name="sidecar"),
        _with_stage("check"),
    ],
)
def test_every_other_pod_is_left_alone(pod: Raw) -> None:
    assert targets([(TINY, prune(pod))]) == []


class Polled:
    """A poller, and the jobs whose answers changed."""

    def __init__(self) -> None:
        self.changed: list[JobKey] = []
        self.now = 100.0
        self.poller = ProgressPoller(list, self.changed.append, clock=lambda: self.now)

    def poll(self, body: bytes, pod: str = "pod-1") -> None:
        with raw_server(OK, body) as port:
            self.poller.poll(Target(TINY, pod, "127.0.0.1", port))


@pytest.fixture
def polled() -> Polled:
    return Polled()


def test_a_job_is_reconciled_when_its_answer_changes(polled: Polled) -> None:
    for answer in (b'{"step": 1}', b'{"step": 1}', b'{"step": 2}'):
        polled.now += 10.0
        polled.poll(answer)
        report = polled.poller.report(TINY, ["pod-1"])
        assert report is not None
        assert report.received == polled.now
    assert polled.changed == [TINY] * 2
    assert (report.progress.step, report.pod_uid) == (2, "pod-1")
    polled.poller.forget(TINY)
    assert polled.poller.report(TINY, ["pod-1"]) is None


def test_a_pod_cannot_replace_the_report_of_another(polled: Polled) -> None:
    for pod, step in (("pod-1", 1), ("pod-2", 1), ("pod-2", 999)):
        polled.poll(b'{"step": %d}' % step, pod)
    assert len(polled.changed) == 3
    report = polled.poller.report(TINY, ["pod-0", "pod-1", "pod-2"])
    assert report is not None
    assert (report.pod_uid, report.progress.step) == ("pod-1", 1)
    assert polled.poller.report(TINY, ["pod-1"]) == report
    assert polled.poller.report(TINY, ["pod-2"]) is None  # it was no pod of the job any more


def test_without_a_readable_answer_the_report_before_it_stays(polled: Polled, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b'{"step": 1}', b"[]", b"\xff", b"{" * 3000):
        polled.poll(body)
    polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", 1))  # where nothing listens
    monkeypatch.setattr(Progress, "parse", lambda _: 1 // 0)
    polled.poll(b'{"step": 2}')
    report = polled.poller.report(TINY, ["pod-1"])
    assert report is not None
    assert (report.progress.step, len(polled.changed)) == (1, 1)


def test_polling_goes_on_after_an_error_until_it_is_stopped() -> None:
    rounds = threading.Semaphore(0)

    def broken() -> list[tuple[JobKey, Raw]]:
        rounds.release()
        raise RuntimeError("a bug")

    poller = ProgressPoller(broken, lambda _: None, seconds=0.01)
    thread = threading.Thread(target=poller.run)
    thread.start()
    assert all(rounds.acquire(timeout=5.0) for _ in range(3))
    poller.stop()
    thread.join(5.0)
    assert not thread.is_alive()
