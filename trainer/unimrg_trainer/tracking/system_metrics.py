"""Load of a node's processors, memory, network and GPUs in the spool, under the names of MLflow's system metrics.

MLflow's own monitor sends to the server directly: its points are lost while the server is away, and it would be a
second way there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from unimrg_trainer.tracking.spool import Spool

_logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0


def watch_system(spool: Spool, node: int | None, interval: float = INTERVAL_SECONDS) -> threading.Event:
    """Record the node's load every `interval` seconds from a daemon thread, until the event that is returned is set.

    `node` is the node's rank where there are several. The step of a point is its Unix time in seconds; MLflow draws
    system metrics over time.
    """
    stop = threading.Event()
    threading.Thread(target=_watch, args=(spool, node, interval, stop), name="system-metrics", daemon=True).start()
    return stop


def _watch(spool: Spool, node: int | None, interval: float, stop: threading.Event) -> None:
    prefix = "system/" if node is None else f"system/node_{node}/"
    gpus = _gpus()
    network = psutil.net_io_counters()
    psutil.cpu_percent()  # the first call has nothing to compare with
    while not stop.wait(interval):
        try:
            now = psutil.net_io_counters()
            memory = psutil.virtual_memory()
            load = {
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "system_memory_usage_percentage": memory.percent,
                "system_memory_usage_megabytes": memory.used / 1e6,
                "network_receive_megabytes": (now.bytes_recv - network.bytes_recv) / 1e6,
                "network_transmit_megabytes": (now.bytes_sent - network.bytes_sent) / 1e6,
                **gpus(),
            }
        except Exception as error:
            _logger.warning("no more system metrics: %s", error)
            return
        network = now
        spool.step(int(time.time()), {f"{prefix}{name}": value for name, value in load.items()})


def _gpus() -> Callable[[], dict[str, float]]:
    """Return what measures the GPUs; nothing where NVIDIA's library (nvidia-ml-py) or a GPU is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        return dict

    def measure() -> dict[str, float]:
        found: dict[str, float] = {}
        for index, handle in enumerate(handles):
            with suppress(pynvml.NVMLError):
                memory: Any = pynvml.nvmlDeviceGetMemoryInfo(handle)
                found[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
                found[f"gpu_{index}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                found[f"gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return found

    return measure
