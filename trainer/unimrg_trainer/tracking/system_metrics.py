"""The load of a node in the spool, as MLflow's own monitors measure it.

MLflow's own thread would send it to the server directly: what it measures while the server is away would be lost.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from unimrg_trainer.tracking.spool import Spool

_logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0


def watch_system(spool: Spool, node: int | None, interval: float = INTERVAL_SECONDS) -> threading.Event:
    """Record the node's load every `interval` seconds from a daemon thread, until the event that is returned is set.

    `node` is the node's rank where there are several. The step of a point is its Unix time in seconds; MLflow draws
    system metrics over time. GPUs are measured where `nvidia-ml-py` is installed. Imports MLflow in the thread.
    """
    stop = threading.Event()
    threading.Thread(target=_watch, args=(spool, node, interval, stop), name="system-metrics", daemon=True).start()
    return stop


def _watch(spool: Spool, node: int | None, interval: float, stop: threading.Event) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    prefix = "system/" if node is None else f"system/node_{node}/"
    monitors = [CPUMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        monitors.append(GPUMonitor())
    while not stop.wait(interval):
        for monitor in monitors:
            try:
                monitor.collect_metrics()
                load = {f"{prefix}{name}": value for name, value in monitor.aggregate_metrics().items()}
            except Exception as error:
                _logger.warning("no more system metrics: %s", error)
                return
            monitor.clear_metrics()
            spool.step(int(time.time()), load)
