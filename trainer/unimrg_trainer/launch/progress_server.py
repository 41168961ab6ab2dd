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

from prometheus_client import CollectorRegistry, generate_latest
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
    try:
        server = _bind(run_dir, host, port)
    except OSError as error:
        logger.warning("progress is not served: %s: %s", host, error)
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


def _bind(run_dir: Path, host: str, port: int) -> ThreadingHTTPServer:
    try:
        return _Server(run_dir, host, port)
    except OSError as error:
        server = _Server(run_dir, host, 0)
        logger.info("progress is served on port %d of %s: %s", server.server_address[1], host, error)
        return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, run_dir: Path, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.run_dir = run_dir
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_ProgressCollector(run_dir))
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/progress":
            self._answer(read_progress(self.server.run_dir).to_json().encode(), "application/json")
        elif self.path == "/metrics":
            self._answer(generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
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
    """The progress file as gauges, read when they are scraped. No label names the job: its pod's labels
    do.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def collect(self) -> Iterator[Metric]:
        progress = read_progress(self._run_dir)
        stage = GaugeMetricFamily("unimrg_stage", "1 for the stage that runs.", labels=["stage"])
        stage.add_metric([progress.stage], 1)
        yield stage
        yield GaugeMetricFamily("unimrg_step", "Optimiser steps finished.", value=progress.step)
        yield GaugeMetricFamily("unimrg_total_steps", "Step at which the stage ends.", value=progress.total_steps)
        if progress.samples_per_second is not None:
            yield GaugeMetricFamily(
                "unimrg_samples_per_second",
                "Rows of all objectives per second.",
                value=progress.samples_per_second,
            )
        if progress.checkpoint_step is not None:
            yield GaugeMetricFamily(
                "unimrg_checkpoint_step", "Step of the last commit.", value=progress.checkpoint_step
            )
        if progress.updated:
            age = max(0.0, time.time() - progress.updated)
            yield GaugeMetricFamily("unimrg_progress_age_seconds", "Time since rank 0 advanced.", value=age)
        losses = GaugeMetricFamily("unimrg_loss", "Loss of the last step, unweighted.", labels=["objective"])
        for name, value in sorted(progress.losses.items()):
            losses.add_metric([name], value)
        yield losses
