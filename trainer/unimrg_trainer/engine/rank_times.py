"""Which rank is slow: each rank's own time in a step, without what it waits for others, compared over the ranks.

All ranks finish a step together, so the time of a step shows nothing. A rank's own time is its forward passes and its
wait for data. Where weights are divided, a forward waits for those of the others (`Strategy.forward_waits`), and there
is nothing to compare.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class SlowestRank:
    """The rank that took longest over its own work since the last report."""

    rank: int
    ratio: float
    """Its time divided by the median over the ranks."""
    forward_seconds: float
    data_wait_seconds: float
    """Both per step."""


class RankTimes:
    """Measures the forward passes of `module` in training; on a GPU by events, without waiting for it."""

    def __init__(self, module: nn.Module, device: torch.device, group: dist.ProcessGroup) -> None:
        self._cuda = device.type == "cuda"
        self._group = group
        self._passes: list[tuple[Any, Any]] = []
        self._began: Any = None
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def discard(self) -> None:
        """Forget the passes since the last report: they were no step's."""
        self._passes = []

    def flush(self, steps: int, data_wait: float) -> SlowestRank:
        """Compare what was measured in the last `steps` steps, with `data_wait` seconds for each; a collective call.

        The device has finished these steps: the metrics were read before.
        """
        spent = sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in self._passes)
        self._passes = []
        mine = torch.tensor([spent / max(1, steps), data_wait], dtype=torch.float64)
        table = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(table, mine, group=self._group)
        totals = [float(times.sum()) for times in table]
        rank = max(range(len(totals)), key=totals.__getitem__)
        middle = statistics.median(totals)
        forward, waited = table[rank].tolist()
        return SlowestRank(rank, totals[rank] / middle if middle else 1.0, forward, waited)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self._began = self._now()

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._passes.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
