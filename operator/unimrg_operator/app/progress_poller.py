"""Pulls progress from running pods: no pod has rights on the API, and a pod can lie only about itself."""

from __future__ import annotations

import contextlib
import http
import http.client
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unimrg_api import cluster
from unimrg_api.progress import Progress
from unimrg_api.record import SIZE_LIMIT
from unimrg_api.stages import STAGES
from unimrg_operator.app.observe import stage_of
from unimrg_operator.app.world import JobKey
from unimrg_operator.backends.objects import dicts_of, dig, int_of, text_of
from unimrg_operator.core.observation import ProgressReport
from unimrg_operator.kube.client import Object

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0
REPLY_SECONDS = 2.0
"""From the first packet to the last byte."""
CONCURRENCY = 16


@dataclass(frozen=True)
class Target:
    """Where one job's progress is to be had."""

    job: JobKey
    pod_uid: str
    ip: str
    port: int


class ProgressPoller:
    """Asks every running job for its progress, again and again, and keeps the newest answer."""

    def __init__(
        self,
        pods: Callable[[], Iterable[tuple[JobKey, Object]]],
        changed: Callable[[JobKey], None],
        *,
        seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`pods` are those of jobs' own children; `changed` is called with a job if a pod's answer is new."""
        self._pods = pods
        self._changed = changed
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[JobKey, dict[str, ProgressReport]] = {}
        """The newest report of each pod of a job, by the pod's uid: no pod can replace another's."""
        self._stop = threading.Event()

    def report(self, key: JobKey, pod_uids: Sequence[str]) -> ProgressReport | None:
        """Return the newest report of the first of these pods, which are all of a job, that has made one."""
        with self._lock:
            known = self._reports.get(key, {})
            for uid in known.keys() - set(pod_uids):
                del known[uid]
            return next((known[uid] for uid in pod_uids if uid in known), None)

    def forget(self, key: JobKey) -> None:
        """Drop what is known of a job that is gone."""
        with self._lock:
            self._reports.pop(key, None)

    def run(self) -> None:
        """Poll until `stop`."""
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="progress") as pool:
            while not self._stop.wait(self._seconds):
                try:
                    list(pool.map(self.poll, targets(self._pods())))
                except Exception:  # what cannot happen must not end the polling
                    logger.exception("progress was not polled")

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stop.set()

    def poll(self, target: Target) -> None:
        """Ask one pod. No answer, or none that can be read, leaves the report before it as it is."""
        try:
            progress = Progress.parse(fetch(target.ip, target.port))
        except OSError:
            return
        except Exception:  # one pod must not keep the others from being polled
            logger.exception("the progress of %s/%s cannot be read", *target.job)
            return
        if progress is None:
            return
        report = ProgressReport(target.pod_uid, self._clock(), progress)
        with self._lock:
            known = self._reports.setdefault(target.job, {})
            before = known.get(target.pod_uid)
            known[target.pod_uid] = report
        if before is None or before.progress != report.progress:
            self._changed(target.job)


def targets(pods: Iterable[tuple[JobKey, Object]]) -> list[Target]:
    """Return whom to ask: the pod of node 0 of each job, while it runs and is not asked to end."""
    found = []
    for job, pod in pods:
        metadata, status = dig(pod, "metadata"), dig(pod, "status")
        stage = stage_of(pod)
        runs = text_of(status, "phase") == "Running" and not dig(metadata, "deletionTimestamp")
        if not runs or stage is None or not STAGES[stage].reports_progress or cluster.node_rank(pod):
            continue
        ip, port = _address(text_of(status, "podIP")), _port(pod)
        if ip and port:
            found.append(Target(job, text_of(metadata, "uid"), ip, port))
    return found


def fetch(ip: str, port: int, *, seconds: float = REPLY_SECONDS) -> bytes:
    """Return the body of the answer to GET /progress.

    Raises OSError where it does not come whole within `seconds`, is larger than a report may be, or is anything
    but a plain success: no redirect is followed and no proxy asked.
    """
    connection = http.client.HTTPConnection(ip, port, timeout=seconds)
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)

    with contextlib.closing(connection):
        connection.connect()
        channel = connection.sock
        deadline = threading.Timer(seconds, end)  # a time-out of the connection is per packet
        deadline.start()
        try:
            connection.request("GET", "/progress")
            reply = connection.getresponse()
            body = reply.read(SIZE_LIMIT + 1)
        except http.client.HTTPException as error:
            raise OSError(f"the answer is not HTTP: {error!r}") from error
        finally:
            deadline.cancel()
    if overdue.is_set():
        raise TimeoutError(f"no whole answer within {seconds} s")
    if reply.status != http.HTTPStatus.OK or not 0 < len(body) <= SIZE_LIMIT:
        raise OSError(f"status {reply.status}, {len(body)} bytes, where {SIZE_LIMIT} are allowed")
    return body


def _address(value: str) -> str:
    """Return an IP address as it is, nothing for anything else: no name is looked up.

    No pod has a link-local address, but a cloud's metadata service does.
    """
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return "" if (mapped or address).is_link_local else str(address)


def _port(pod: Object) -> int:
    containers = dicts_of(pod, "spec", "containers")
    ours = next((entry for entry in containers if text_of(entry, "name") == cluster.TRAINER_CONTAINER), {})
    port = next((entry for entry in dicts_of(ours, "ports") if text_of(entry, "name") == cluster.PROGRESS_PORT), {})
    return int_of(port, "containerPort")
