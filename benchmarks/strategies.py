"""Step time and peak memory of each strategy beside DDP, on CPU processes of this machine.

python benchmarks/strategies.py [--quick] [--processes N] [--rounds N] [--hidden N] [--layers N]

A transformer's blocks (width and depth as `--hidden` and `--layers` say, 1024 tokens in a step of a process) take
optimiser steps in FP32 under each strategy in turn, in new processes for each, round after round, so that each is
measured beside DDP at about the same time. A step's time is rank 0's median within a round, a ratio the median over
rounds of ratios to DDP's.
`peak` is the largest resident memory of a rank above what it had before the model was built; `state` is what weights,
gradients and moments take by arithmetic (docs/method/strategies.md). With gloo on CPUs communication is slow and
nothing overlaps: the figures say what a strategy costs here, and not on GPUs. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from unimrg_api.spec_platform import StrategyName
from unimrg_api.spec_training import OptimizerSpec
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.strategies.choose import build_strategy

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
TOKENS = 512
TARGET = 1.25
"""The step of the default strategies (ZeRO1, FSDP2) takes at most so much of DDP's."""


class Block(nn.Module):
    """A residual feed-forward block."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = values + self.mlp(self.norm(values))
        return out


class Model(nn.Module):
    """Rows [rows, TOKENS, hidden] → each row's loss [rows]."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(hidden) for _ in range(layers))

    def forward(self, rows: Tensor) -> Tensor:
        for block in self.blocks:
            rows = block(rows)
        return rows.square().mean((1, 2))


def measure(rank: int, name: StrategyName, arguments: argparse.Namespace, folder: str) -> None:
    """Take steps as one rank and write (seconds of each step, peak bytes) to the folder."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=arguments.processes)
    steps(name, 16, 1, 1)  # imports what the strategy needs
    before = resident()
    seconds = steps(name, arguments.hidden, arguments.layers, arguments.steps + 1)[1:]  # the first step allocates
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    Path(folder, f"{rank}.json").write_text(json.dumps([seconds, peak]))
    dist.barrier()
    dist.destroy_process_group()


def steps(name: StrategyName, hidden: int, layers: int, count: int) -> list[float]:
    """Return the seconds of each of `count` steps of a new model."""
    model = Model(hidden, layers)
    make_optimizer = partial(build_optimizer, settings=OptimizerSpec(), decays=decays)
    strategy = build_strategy(name, model, make_optimizer, "FP32", torch.device("cpu"))
    rows, weights = torch.randn(2, TOKENS, hidden), torch.full((2,), 0.5 / strategy.world_size)
    seconds = []
    for _ in range(count):
        dist.barrier()
        started = time.perf_counter()
        strategy.forward_backward(rows, weights, sync_gradients=True)
        strategy.clip(1.0)
        strategy.step(1e-5)
        seconds.append(time.perf_counter() - started)
    strategy.close()
    return seconds


def decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def state_bytes(name: StrategyName, parameters: int, processes: int) -> float:
    """Bytes of weights, gradients and moments on one process (docs/method/strategies.md)."""
    per_parameter = {
        "DDP": 16.0,
        "ZeRO1": 8 + 12 / processes,
        "ZeRO2": 4 + 16 / processes,
        "ZeRO3": 20 / processes,
        "FSDP2": 16 / processes,
    }
    return per_parameter[name] * parameters


def run(name: StrategyName, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return (median seconds of a step on rank 0, largest peak of a rank in bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(measure, (name, arguments, folder), nprocs=arguments.processes)  # type: ignore[no-untyped-call]
        found: list[Any] = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return statistics.median(found[0][0]), max(peak for _, peak in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one round of a small model")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.hidden, arguments.layers = 1, 3, 256, 2
    parameters = sum(parameter.numel() for parameter in Model(arguments.hidden, arguments.layers).parameters())
    print(f"{parameters / 1e6:.1f} M parameters, {arguments.processes} processes, {arguments.rounds} rounds")
    rounds = [{name: run(name, arguments) for name in NAMES} for _ in range(arguments.rounds)]
    figures = {}
    print(f"{'strategy':9}{'step':>9}{'/ DDP':>8}{'peak':>10}{'state':>10}")
    for name in NAMES:
        seconds = statistics.median(one[name][0] for one in rounds)
        ratio = statistics.median(one[name][0] / one["DDP"][0] for one in rounds)
        peak = statistics.median(one[name][1] for one in rounds)
        state = state_bytes(name, parameters, arguments.processes)
        figures[name] = {"step_s": seconds, "ratio": ratio, "peak_mb": peak / 1e6, "state_mb": state / 1e6}
        print(f"{name:9}{seconds * 1e3:7.0f}ms{ratio:8.2f}{peak / 1e6:8.0f}MB{state / 1e6:8.0f}MB")
    worst = max(figures[name]["ratio"] for name in ("ZeRO1", "FSDP2"))
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    result = {"name": "strategies", "figures": figures, "ratio": worst, "target": TARGET}
    print(json.dumps({**result, "holds": worst <= TARGET, "machine": machine}))


if __name__ == "__main__":
    main()
