"""Progress is pulled from the right pods, within narrow limits, and told only when it changed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.operator.raw_objects import Raw, pod_object, running
from unimrg_api import cluster
from unimrg_api.progress import Progress
from unimrg_operator.app.progress_poller import ProgressPoller, Target, fetch, targets
from unimrg_operator.app.world import JobKey, prune_pod
from unimrg_trainer.launch.progress_server import serve_progress


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does with each connection what a test says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(4096)
                        serve(connection)
                    except OSError:
                        continue

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def replying(*parts: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: [connection.sendall(part) for part in parts] and None


TINY = ("lab", "tiny")
OK = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


def test_the_launchers_own_server_is_understood(tmp_path: Path) -> None:
    progress = Progress(stage="train", step=120, total_steps=400, losses={"Pixel": 0.5}, updated=1.0)
    (tmp_path / "progress.json").write_text(progress.to_json())
    with serve_progress(tmp_path, "127.0.0.1", 0) as port:
        assert port is not None
        heard = Progress.parse(fetch("127.0.0.1", port))
    assert heard is not None
    assert (heard.step, heard.total_steps, heard.losses) == (120, 400, {"Pixel": 0.5})


def test_a_body_that_comes_in_pieces_is_whole() -> None:
    with raw_server(replying(OK[:10], OK[10:], b'{"st', b'ep": 7}')) as port:
        assert fetch("127.0.0.1", port) == b'{"step": 7}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n{}",
        b"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/latest/\r\n\r\n{}",
        b"HTTP/1.0\r\n\r\n{}",
        b"SSH-2.0-OpenSSH 200\r\n\r\n{}",
        OK + b"x" * 9000,
    ],
)
def test_anything_but_a_small_success_is_an_error(answer: bytes) -> None:
    with raw_server(replying(answer)) as port, pytest.raises(OSError):
        fetch("127.0.0.1", port)


def test_a_pod_that_drips_its_answer_is_given_up_in_time() -> None:
    def drip(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with raw_server(drip) as port, pytest.raises(OSError):
        fetch("127.0.0.1", port, seconds=0.3)
    assert time.monotonic() - started < 2.0


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with raw_server(replying(OK, b"{}")) as port:
        assert fetch("127.0.0.1", port) == b"{}"


def test_the_running_pod_of_node_0_of_a_long_stage_is_asked_at_its_progress_port() -> None:
    pod = prune_pod(pod_object())
    assert targets([(TINY, pod)]) == [Target(TINY, pod["metadata"]["uid"], "10.1.2.3", 21001)]
    for ip in ("fd00::7", "127.0.0.3"):
        assert [target.ip for target in targets([(TINY, pod_object(status=running(ip)))])] == [ip]


def _without_port() -> Raw:
    pod = pod_object()
    pod["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 80}]
    return pod


def _with_the_port_elsewhere() -> Raw:
    pod = pod_object()
    pod["spec"]["containers"][0]["name"] = "sidecar"
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
        _without_port(),
        _with_the_port_elsewhere(),
        _with_stage("check"),
        _with_stage("finish"),
    ],
)
def test_every_other_pod_is_left_alone(pod: Raw) -> None:
    assert targets([(TINY, prune_pod(pod))]) == []


class Polled:
    """A poller and the jobs of which it told."""

    def __init__(self) -> None:
        self.published: list[JobKey] = []
        self.now = 100.0
        self.poller = ProgressPoller(list, self.published.append, clock=lambda: self.now)


def test_a_job_is_told_when_its_answer_changes_and_the_time_of_the_last_one_is_kept() -> None:
    polled = Polled()
    answers = [b'{"step": 1}', b'{"step": 1}', b'{"step": 2}']
    for answer in answers:
        polled.now += 10.0
        with raw_server(replying(OK, answer)) as port:
            polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", port))
        report = polled.poller.report(TINY, ["pod-1"])
        assert report is not None
        assert report.received == polled.now
    assert polled.published == [("lab", "tiny")] * 2
    assert report.progress.step == 2
    assert report.pod_uid == "pod-1"


def test_an_answer_of_another_pod_is_news_even_if_it_says_the_same() -> None:
    polled = Polled()
    with raw_server(replying(OK, b'{"step": 1}')) as port:
        for pod in ("pod-1", "pod-2"):
            polled.poller.poll(Target(TINY, pod, "127.0.0.1", port))
    assert len(polled.published) == 2


def test_a_pod_replaces_no_other_pods_report_and_the_first_that_is_named_counts() -> None:
    polled = Polled()
    for pod, step in (("pod-1", 1), ("pod-2", 999)):
        with raw_server(replying(OK, b'{"step": %d}' % step)) as port:
            polled.poller.poll(Target(TINY, pod, "127.0.0.1", port))
    report = polled.poller.report(TINY, ["pod-0", "pod-1", "pod-2"])
    assert report is not None
    assert (report.pod_uid, report.progress.step) == ("pod-1", 1)
    assert polled.poller.report(TINY, ["pod-1"]) == report
    assert polled.poller.report(TINY, ["pod-2"]) is None, "what is no pod of the job any more is forgotten"


def test_an_error_in_reading_one_answer_stays_with_that_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> Progress:
        raise OverflowError("a bug")

    monkeypatch.setattr(Progress, "parse", broken)
    polled = Polled()
    with raw_server(replying(OK, b"{}")) as port:
        polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", port))
    assert polled.poller.report(TINY, ["pod-1"]) is None


def test_without_a_readable_answer_the_report_before_it_stays() -> None:
    polled = Polled()
    for body in (b'{"step": 1}', b"[]", b"\xff", b"{" * 3000):
        with raw_server(replying(OK, body)) as port:
            polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", port))
    polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", port))  # nobody listens there any more
    report = polled.poller.report(TINY, ["pod-1"])
    assert report is not None
    assert report.progress.step == 1
    assert len(polled.published) == 1


def test_what_is_known_of_a_job_that_is_gone_is_dropped() -> None:
    polled = Polled()
    with raw_server(replying(OK, b"{}")) as port:
        polled.poller.poll(Target(TINY, "pod-1", "127.0.0.1", port))
    polled.poller.forget(("lab", "tiny"))
    assert polled.poller.report(TINY, ["pod-1"]) is None


def test_polling_goes_on_after_an_error_and_ends_when_told() -> None:
    pods: list[tuple[JobKey, Raw]] = []
    rounds = threading.Semaphore(0)

    def broken() -> list[tuple[JobKey, Raw]]:
        rounds.release()
        if not pods:
            pods.append((TINY, pod_object()))
            raise RuntimeError("a bug")
        return []

    poller = ProgressPoller(broken, lambda _: None, seconds=0.01)
    thread = threading.Thread(target=poller.run)
    thread.start()
    assert all(rounds.acquire(timeout=5.0) for _ in range(3))
    poller.stop()
    thread.join(5.0)
    assert not thread.is_alive()
