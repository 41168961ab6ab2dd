"""Serves the job's progress: GET /progress for the operator, GET /metrics for Prometheus.

It is read-only, serves only these two paths, and answers from files without any lock of the training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from unimrg_api.pages import Page, PageServer
from unimrg_trainer.launch.reports import read_progress

logger = logging.getLogger(__name__)

PORT_FILE = "progress.port"


@contextmanager
def serve_progress(run_dir: Path, host: str, port: int) -> Iterator[int | None]:
    """Serve the progress of `run_dir` at host:port for the length of the block; yields the port that is bound.

    Two runs on a laptop may want the same port: then the system chooses one; RUN_DIR/progress.port tells people.
    If no port can be bound at that address, yields None: the job runs without a progress endpoint.
    """
    metrics = _ProgressCollector(run_dir)
    pages: dict[str, Page] = {
        "/progress": lambda: (200, "application/json", read_progress(run_dir).to_json().encode()),
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(metrics)),
    }
    for wanted in (port, 0):
        try:
            server = PageServer(host, wanted, pages)
            break
        except OSError as error:
            logger.info("port %d of %s cannot be bound: %s", wanted, host, error)
    else:
        logger.warning("progress is not served")
        yield None
        return
    server.start()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / PORT_FILE).write_text(str(server.port))
    try:
        yield server.port
    finally:
        server.stop()
        (run_dir / PORT_FILE).unlink(missing_ok=True)


class _ProgressCollector:
    """The progress file as gauges, read when they are scraped. Prometheus adds the pod's labels, which name the job."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def collect(self) -> Iterator[Metric]:
        progress = read_progress(self._run_dir)
        now = time.time()
        age = max(0.0, now - progress.updated) if progress.updated else None
        checkpoint_age = max(0.0, now - progress.checkpoint_time) if progress.checkpoint_time else None
        for name, text, value in (
            ("step", "Optimiser steps finished.", progress.step),
            ("total_steps", "Step at which the stage ends.", progress.total_steps),
            ("rows_per_second", "Rows of all objectives per second.", progress.rows_per_second),
            ("total_loss", "Weighted mean of the objectives' losses in the last step.", progress.loss),
            ("skipped_steps", "Skipped steps: non-finite or a spike.", progress.skipped_steps),
            ("slowest_rank", "Rank that took longest over its own work.", progress.slowest_rank),
            ("slowest_rank_ratio", "Its time, divided by the median of all ranks.", progress.slowest_rank_ratio),
            ("checkpoint_step", "Step of the last checkpoint.", progress.checkpoint_step),
            ("checkpoint_age_seconds", "Time since this attempt made a checkpoint.", checkpoint_age),
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
