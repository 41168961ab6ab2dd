"""Serves the job's progress: GET /progress for the operator and `unimrg run`, GET /metrics for Prometheus.

It answers from files, holds no lock of the training and has no other path; nothing can be changed through it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from unimrg_trainer.launch.reports import read_progress

logger = logging.getLogger(__name__)

PORT_FILE = "progress.port"
_REQUEST_SECONDS = 5
"""A slower client is dropped."""


@contextmanager
def serve_progress(run_dir: Path, host: str, port: int) -> Iterator[int | None]:
    """Serve the progress of `run_dir` at host:port for the length of the block; yields the port that is bound.

    Two runs on a laptop may want the same port: then the system chooses one. It is written to
    RUN_DIR/progress.port. Without a port at that address nothing is served (None): a job goes on that nobody
    can watch.
    """
    for wanted in (port, 0):
        try:
            server = _Server(run_dir, host, wanted)
            break
        except OSError as error:
            logger.info("port %d of %s cannot be bound: %s", wanted, host, error)
    else:
        logger.warning("progress is not served")
        yield None
        return
    bound: int = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="progress", daemon=True)
    thread.start()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / PORT_FILE).write_text(str(bound))
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        (run_dir / PORT_FILE).unlink(missing_ok=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, run_dir: Path, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.run_dir = run_dir
        self.metrics = _ProgressCollector(run_dir)
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/progress":
            self._answer(read_progress(self.server.run_dir).to_json().encode(), "application/json")
        elif self.path == "/metrics":
            self._answer(generate_latest(self.server.metrics), CONTENT_TYPE_LATEST)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("%s %s", self.address_string(), format % args)

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _ProgressCollector:
    """The progress file as gauges, read when they are scraped. No label names the job: its pod's labels do."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def collect(self) -> Iterator[Metric]:
        progress = read_progress(self._run_dir)
        age = max(0.0, time.time() - progress.updated) if progress.updated else None
        for name, text, value in (
            ("step", "Optimiser steps finished.", progress.step),
            ("total_steps", "Step at which the stage ends.", progress.total_steps),
            ("samples_per_second", "Rows of all objectives per second.", progress.samples_per_second),
            ("checkpoint_step", "Step of the last commit.", progress.checkpoint_step),
            ("progress_age_seconds", "Time since rank 0 advanced.", age),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"unimrg_{name}", text, value=value)
        for name, text, label, values in (
            ("stage", "1 for the stage that runs.", "stage", {progress.stage: 1.0}),
            ("loss", "Loss of the last step, unweighted.", "objective", progress.losses),
        ):
            gauge = GaugeMetricFamily(f"unimrg_{name}", text, labels=[label])
            for key, number in values.items():
                gauge.add_metric([key], number)
            yield gauge
